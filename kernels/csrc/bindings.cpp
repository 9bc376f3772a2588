// The Python interface of the native kernels: checks arrays and computes nothing.
#include "arrays.hpp"
#include "beam_step.hpp"

namespace {

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

void bind_gpt2(py::module_& m);  // gpt2_bindings.cpp

PYBIND11_MODULE(_core, m) {
  using py::arg;
  m.doc() = "Native kernels; pengi_rt.kernels documents them.";
  m.def("beam_step", &beam_step, arg("logits"), arg("scores"), arg("lengths"), arg("finished"),
        arg("beam_size"), arg("temperature"), arg("stop_id"), arg("pad_id"));
  m.def("update_ancestry", &update_ancestry, arg("ancestry"), arg("sources"), arg("position"));
  bind_gpt2(m);
}
