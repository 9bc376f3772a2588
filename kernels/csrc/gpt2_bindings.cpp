// The Python interface of the CPU's GPT-2: checks arrays and computes nothing.
#include <pybind11/stl.h>

#include <mutex>
#include <optional>

#include "arrays.hpp"
#include "cpu.hpp"
#include "gpt2.hpp"
#include "packed_linear.hpp"

namespace {

using pengi::Gpt2;
using pengi::Gpt2Cache;

pengi::Storage storage_of(const std::string& precision) {
  if (precision == "fp32") return pengi::Storage::fp32;
  if (precision == "bf16") return pengi::Storage::bf16;
  if (precision == "int8") return pengi::Storage::int8;
  throw py::value_error("there is no precision '" + precision + "'");
}

std::vector<float> vector_of(const py::array& array, py::ssize_t size, const char* name) {
  const float* from = data<float>(array, {size}, name);
  return {from, from + size};
}

pengi::Norm norm_of(const py::tuple& parts, std::int64_t width) {
  return {vector_of(parts[0], width, "norm weight"), vector_of(parts[1], width, "norm bias")};
}

pengi::Linear packed(Gpt2& model, const py::tuple& parts, std::int64_t inputs,
                           std::int64_t outputs) {
  const py::array weight = parts[0], bias = parts[1];
  const pengi::Matrix matrix{data<float>(weight, {inputs, outputs}, "weight"),
                             data<float>(bias, {outputs}, "bias"), inputs, outputs, false};
  const py::gil_scoped_release unlocked;
  return model.linear(matrix);
}

void add_layer(Gpt2& model, const py::tuple& norm_1, const py::tuple& qkv,
               const py::tuple& projection, const py::tuple& norm_2, const py::tuple& up,
               const py::tuple& down) {
  const std::int64_t width = model.shape().width;
  model.add_layer({norm_of(norm_1, width), packed(model, qkv, width, 3 * width),
                   packed(model, projection, width, width), norm_of(norm_2, width),
                   packed(model, up, width, 4 * width), packed(model, down, 4 * width, width)});
}

void set_head(Gpt2& model, const py::tuple& norm, const py::array& table) {
  const auto [width, heads, vocab] = model.shape();
  const pengi::Matrix matrix{data<float>(table, {vocab, width}, "table"), nullptr, width, vocab,
                             true};
  pengi::Norm last = norm_of(norm, width);
  const py::gil_scoped_release unlocked;
  model.set_head(std::move(last), model.linear(matrix));
}

py::array_t<float> prefill(Gpt2& model, Gpt2Cache& cache, const std::vector<std::int64_t>& slots,
                           const std::vector<std::int64_t>& lengths, const py::array& rows) {
  std::int64_t total = 0;
  if (slots.size() != lengths.size()) throw py::value_error("slots and lengths differ in number");
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] < 0 || slots[i] >= cache.slots) throw py::value_error("a slot is out of range");
    if (lengths[i] < 1 || lengths[i] > cache.prefix_rows)
      throw py::value_error("a length is out of range");
    total += lengths[i];
  }
  const float* from = data<float>(rows, {total, model.shape().width}, "rows");
  py::array_t<float> logits({static_cast<std::int64_t>(slots.size()), model.shape().vocab});
  float* to = logits.mutable_data();
  const py::gil_scoped_release unlocked;
  model.prefill(cache, slots, lengths, from, to);
  return logits;
}

void step(Gpt2& model, Gpt2Cache& cache, const py::array& rows, const py::array& parents,
          const py::array& lengths, const py::array& generated, py::array logits) {
  const std::int64_t count = cache.slots * cache.width;
  const float* from = data<float>(rows, {count, model.shape().width}, "rows");
  const auto* parent = data<std::int64_t>(parents, {cache.slots, cache.width}, "parents");
  const auto* length = data<std::int64_t>(lengths, {cache.slots}, "lengths");
  const auto* done = data<std::int64_t>(generated, {cache.slots}, "generated");
  data<float>(logits, {count, model.shape().vocab}, "logits");
  float* to = static_cast<float*>(logits.mutable_data());
  for (std::int64_t i = 0; i < count; ++i)
    if (parent[i] < 0 || parent[i] >= cache.width)
      throw py::value_error("a parent is out of range");
  for (std::int64_t i = 0; i < cache.slots; ++i)
    if (length[i] < 0 || length[i] > cache.prefix_rows || done[i] < 0 ||
        done[i] >= cache.new_tokens)
      throw py::value_error("a length is out of range");
  const py::gil_scoped_release unlocked;
  model.step(cache, from, parent, length, done, to);
}

// One linear layer with threads of its own.
class PackedLinear {
 public:
  PackedLinear(const py::array& weight, const std::optional<py::array>& bias,
               const std::string& precision, const std::string& instructions, int threads)
      : pool_(threads),
        linear_(pengi::kernels_for(instructions), storage_of(precision), matrix(weight, bias),
                pool_) {}

  py::array_t<float> apply(const py::array& x, const std::optional<py::array>& residual,
                           bool gelu) {
    const float* from = data<float>(x, {kAny, linear_.inputs()}, "x");
    const std::int64_t rows = x.shape(0);
    const Shape shape{rows, linear_.outputs()};
    const float* added = residual ? data<float>(*residual, shape, "residual") : nullptr;
    py::array_t<float> y(shape);
    float* to = y.mutable_data();
    const py::gil_scoped_release unlocked;
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    const pengi::ThreadPool::Busy busy(pool_);
    linear_.apply(from, rows, added, gelu, to, scratch_, pool_);
    return y;
  }

 private:
  static pengi::Matrix matrix(const py::array& weight, const std::optional<py::array>& bias) {
    const float* values = data<float>(weight, {kAny, kAny}, "weight");
    const std::int64_t inputs = weight.shape(0), outputs = weight.shape(1);
    if (inputs < 1 || outputs < 1) throw py::value_error("weight is empty");
    return {values, bias ? data<float>(*bias, {outputs}, "bias") : nullptr, inputs, outputs, false};
  }

  std::mutex mutex_;
  pengi::ThreadPool pool_;
  pengi::Linear linear_;
  pengi::Linear::Rounded scratch_;
};

}  // namespace

void bind_gpt2(py::module_& m) {
  using py::arg;
  m.def("instruction_sets", &pengi::instruction_sets);
  py::class_<PackedLinear>(m, "PackedLinear")
      .def(py::init<const py::array&, const std::optional<py::array>&, const std::string&,
                    const std::string&, int>(),
           arg("weight"), arg("bias"), py::kw_only(), arg("precision"), arg("instructions"),
           arg("threads"))
      .def("apply", &PackedLinear::apply, arg("x"), arg("residual"), arg("gelu"));
  py::class_<Gpt2Cache>(m, "Gpt2Cache");
  py::class_<Gpt2>(m, "Gpt2")
      .def(py::init([](std::int64_t width, std::int64_t heads, std::int64_t vocab,
                       const std::string& precision, const std::string& instructions,
                       int threads) {
             return std::make_unique<Gpt2>(pengi::Gpt2Shape{width, heads, vocab},
                                           storage_of(precision),
                                           pengi::kernels_for(instructions), threads);
           }),
           py::kw_only(), arg("width"), arg("heads"), arg("vocab"), arg("precision"),
           arg("instructions"), arg("threads"))
      .def("add_layer", &add_layer, py::kw_only(), arg("norm_1"), arg("qkv"), arg("projection"),
           arg("norm_2"), arg("up"), arg("down"))
      .def("set_head", &set_head, arg("norm"), arg("table"))
      .def("new_cache", &Gpt2::new_cache, py::kw_only(), arg("slots"), arg("width"),
           arg("prefix_rows"), arg("new_tokens"))
      .def("prefill", &prefill, arg("cache"), arg("slots"), arg("lengths"), arg("rows"))
      .def("step", &step, arg("cache"), arg("rows"), arg("parents"), arg("lengths"),
           arg("generated"), arg("logits"));
}
