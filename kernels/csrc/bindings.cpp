// The Python interface of the native kernels: checks arrays and computes nothing.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "beam_step.hpp"

namespace py = pybind11;

namespace {

constexpr py::ssize_t kAny = -1;
using Shape = std::vector<py::ssize_t>;

std::string text(const Shape& shape) {
  std::string result;
  for (const py::ssize_t size : shape)
    result += (result.empty() ? "" : ", ") + (size == kAny ? "*" : std::to_string(size));
  return "[" + result + "]";
}

// The data of an aligned, C-contiguous `T` array of this shape; throws if it is not one.
template <typename T>
const T* data(const py::array& array, const Shape& shape, const std::string& name) {
  using py::detail::npy_api;
  const Shape got(array.shape(), array.shape() + array.ndim());
  bool fits = got.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i)
    fits = shape[i] == kAny || shape[i] == got[i];
  constexpr int kFlags = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_;
  const bool packed = (array.flags() & kFlags) == kFlags;
  if (!py::isinstance<py::array_t<T>>(array) || !fits || !packed)
    throw py::value_error(name + " must be C-contiguous " +
                          std::string(py::str(py::dtype::of<T>())) + " " + text(shape) + ", got " +
                          (packed ? "" : "strided ") + std::string(py::str(array.dtype())) + " " +
                          text(got));
  return static_cast<const T*>(array.data());
}

template <typename T, typename U>
py::array_t<T> array_of(const std::vector<U>& values, const Shape& shape) {
  static_assert(sizeof(T) == sizeof(U));
  return py::array_t<T>(shape, reinterpret_cast<const T*>(values.data()));
}

py::tuple beam_step(const py::array& logits, const py::array& scores, const py::array& lengths,
                    const py::array& finished, std::int64_t beam_size, double temperature,
                    std::int64_t stop_id, std::int64_t pad_id) {
  pengi::BeamInputs in{};
  in.logits = data<float>(logits, {kAny, kAny, kAny}, "logits");
  in.clips = logits.shape(0);
  in.beams = logits.shape(1);
  in.vocab = logits.shape(2);
  in.scores = data<double>(scores, {in.clips, in.beams}, "scores");
  in.lengths = data<std::int32_t>(lengths, {in.clips, in.beams}, "lengths");
  in.finished = data<bool>(finished, {in.clips, in.beams}, "finished");
  pengi::BeamOutputs out;
  {
    const py::gil_scoped_release unlocked;
    out = pengi::beam_step(in, {beam_size, temperature, stop_id, pad_id});
  }
  const Shape shape{in.clips, beam_size};
  return py::make_tuple(array_of<std::int64_t>(out.sources, shape),
                        array_of<std::int64_t>(out.tokens, shape),
                        array_of<double>(out.averages, shape), array_of<double>(out.scores, shape),
                        array_of<std::int32_t>(out.lengths, shape),
                        array_of<bool>(out.finished, shape));
}

void update_ancestry(py::array ancestry, const py::array& sources, std::int64_t position) {
  data<std::int32_t>(ancestry, {kAny, kAny, kAny}, "ancestry");
  const py::ssize_t clips = ancestry.shape(0);
  const py::ssize_t beams = ancestry.shape(1);
  pengi::update_ancestry(static_cast<std::int32_t*>(ancestry.mutable_data()),
                         data<std::int64_t>(sources, {clips, beams}, "sources"), clips, beams,
                         ancestry.shape(2), position);
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  using py::arg;
  m.doc() = "Native kernels; pengi_rt.kernels.beam_step_cpu documents them.";
  m.def("beam_step", &beam_step, arg("logits"), arg("scores"), arg("lengths"), arg("finished"),
        arg("beam_size"), arg("temperature"), arg("stop_id"), arg("pad_id"));
  m.def("update_ancestry", &update_ancestry, arg("ancestry"), arg("sources"), arg("position"));
}
