// SPDX-License-Identifier: Apache-2.0
// Numbers that stand in Python dictionaries and lists, where users may write: read, written, and watched.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "plan/bridge.h"
#include "plan/tensors.h"

namespace fs::cells {

namespace py = pybind11;

inline py::object interned(const std::string& name) {
  PyObject* s = PyUnicode_InternFromString(name.c_str());
  if (s == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(s);
}

// A borrowed reference, or null where there is no such key; what else went wrong is thrown.
inline PyObject* get(PyObject* dict, const py::object& key) {
  PyObject* found = PyDict_GetItemWithError(dict, key.ptr());
  if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return found;
}

inline void set(PyObject* dict, const py::object& key, PyObject* value) {
  if (PyDict_SetItem(dict, key.ptr(), value) != 0) throw py::error_already_set();
}

// Whether a counter has this value; a composite of chained schedulers has none.
inline bool has_count(PyObject* dict, const py::object& key, int64_t expected, bool optional) {
  PyObject* now = get(dict, key);
  if (now == nullptr) return optional;
  if (!PyLong_Check(now)) return false;
  int overflow = 0;
  return PyLong_AsLongLongAndOverflow(now, &overflow) == expected && overflow == 0;
}

inline bool is_tensor(PyObject* object) { return object != nullptr && fs::is_tensor(object); }

// Waits for the device, if the tensor is on one.
inline double read(const at::Tensor& t) {
  if (is_native(t, at::kCPU)) {
    if (t.scalar_type() == at::kFloat) return *unwrap<const float>(t);
    if (t.scalar_type() == at::kDouble) return *unwrap<const double>(t);
  }
  return t.item<double>();
}

inline std::optional<double> number(PyObject* object) {
  if (PyFloat_Check(object)) return PyFloat_AS_DOUBLE(object);
  if (is_tensor(object)) {
    const at::Tensor& t = tensor_of(object);
    if (t.numel() == 1) return read(t);
    return std::nullopt;
  }
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    return std::nullopt;
  }
  return value;
}

inline void write(const at::Tensor& t, double value) {
  // Two dispatches of fill_ cost more than everything else in a step; a plain tensor on the CPU can do without.
  const bool plain = is_native(t, at::kCPU) && t.numel() == 1 && !t.is_inference() && !t.requires_grad();
  if (plain && t.scalar_type() == at::kFloat) {
    *unwrap<float>(t) = static_cast<float>(value);
  } else if (plain && t.scalar_type() == at::kDouble) {
    *unwrap<double>(t) = value;
  } else {
    t.fill_(value);
    return;
  }
  t.unsafeGetTensorImpl()->bump_version();
}

// One hyperparameter as it was last seen. Identity decides where it can; a new object with the same number is no edit.
class Cell {
 public:
  explicit Cell(PyObject* object) { look(object); }

  bool matches(PyObject* now) {
    if (now == object_.ptr() && !tensor_) return true;
    if (now == nullptr || !object_) return false;
    if (now == object_.ptr() && !tensor_of(now).device().is_cpu()) {
      return tensor_of(now)._version() == version_;  // the value would have to be waited for
    }
    const std::optional<double> value = number(now);
    if (!value || !value_ || *value != *value_) return false;
    if (now != object_.ptr()) look(now);
    return true;
  }

  void look(PyObject* object) {
    object_ = py::reinterpret_borrow<py::object>(object);
    tensor_ = is_tensor(object);
    value_ = object == nullptr ? std::nullopt : number(object);
    if (tensor_) look_at_version();
  }

  // After a write of our own: the value is what the tensor's dtype made of it.
  void wrote(double value) {
    const at::Tensor& t = tensor_of(object_.ptr());
    value_ = t.device().is_cpu() ? read(t) : value;
    look_at_version();
  }

  void wrote(py::object object, double value) {
    object_ = std::move(object);
    value_ = value;
  }

  bool tensor() const { return tensor_; }
  PyObject* object() const { return object_.ptr(); }

 private:
  void look_at_version() {
    const at::Tensor& t = tensor_of(object_.ptr());
    version_ = t.is_inference() ? 0 : t._version();
  }

  py::object object_;
  std::optional<double> value_;
  bool tensor_ = false;
  int64_t version_ = 0;
};

// A list of the scheduler (base_lrs, ...) or its Counter of milestones, and what was in it.
struct Container {
  py::object key;
  bool missing = false;
  py::object dict;  // a copy
  std::vector<Cell> cells;

  Container(const std::string& name, PyObject* state) : key(interned(name)) {
    PyObject* now = get(state, key);
    missing = now == nullptr || now == Py_None;
    if (missing) return;
    if (PyDict_Check(now)) {
      dict = py::reinterpret_steal<py::object>(PyDict_Copy(now));
      return;
    }
    for (py::handle item : py::reinterpret_borrow<py::sequence>(now)) cells.emplace_back(item.ptr());
  }

  bool matches(PyObject* state) {
    PyObject* now = get(state, key);
    if (now == nullptr || now == Py_None) return missing;
    if (dict) {
      if (!PyDict_Check(now)) return false;
      // dict's own comparison: that of Counter is written in Python and takes ten times as long.
      const auto equal =
          py::reinterpret_steal<py::object>(PyDict_Type.tp_richcompare(now, dict.ptr(), Py_EQ));
      return equal.ptr() == Py_True;
    }
    const bool list = PyList_Check(now) || PyTuple_Check(now);
    if (!list || PySequence_Fast_GET_SIZE(now) != static_cast<Py_ssize_t>(cells.size())) return false;
    for (size_t i = 0; i < cells.size(); ++i) {
      if (!cells[i].matches(PySequence_Fast_GET_ITEM(now, static_cast<Py_ssize_t>(i)))) return false;
    }
    return true;
  }
};

}  // namespace fs::cells
