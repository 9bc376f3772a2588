// NumPy arrays as the kernels read them: checked, never copied.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

namespace py = pybind11;

constexpr py::ssize_t kAny = -1;
using Shape = std::vector<py::ssize_t>;

inline std::string text(const Shape& shape) {
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

