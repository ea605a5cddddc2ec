// SPDX-License-Identifier: Apache-2.0
#include "bindings/metric.h"

#include "bindings/casters.h"
#include "bindings/watched_value.h"
#include "core/metric.h"
#include "plan/cuda_batch.h"
#include "plan/tensors.h"

namespace {

const fs_cuda::Runtime& runtime() {
  const fs_cuda::Runtime* found = fs::cuda_runtime();
  TORCH_CHECK(found != nullptr, "fusedsched was built without CUDA.");
  return *found;
}

void observe(const at::Tensor& table, const at::Tensor& given, uint64_t stream) {
  const at::Tensor metric = fs::native(given);
  TORCH_CHECK_TYPE(fs::is_native(metric, table.device()) && metric.numel() == 1,
                   "the metric must be a floating point tensor with one element on ", table.device());
  fs::call_on(table.device(), runtime().observe, stream, fs::unwrap<double>(table), fs::unwrap<const void>(metric),
              *fs::dtype_of(metric.scalar_type()));
}

// Steps of ReduceLROnPlateau on the host that change no learning rate, on the attributes of the scheduler.
class QuietSteps {
 public:
  // `attributes`: how many there are. One that is added may override a method.
  explicit QuietSteps(Py_ssize_t attributes) : attributes_(attributes) {}

  // One step. False, and nothing is changed, where there is more to do: then torch's code makes it.
  bool advance(const py::dict& scheduler, const py::object& metric) {
    PyObject* state = scheduler.ptr();
    if (!PyFloat_CheckExact(metric.ptr()) || PyDict_GET_SIZE(state) != attributes_) return false;
    const py::object rates = rates_of(state);
    fs::MetricState now{};
    const bool complete = comparison_of(state, now.comparison) && number(state, best_, now.best) &&
                          number(state, threshold_, now.threshold) && number(state, patience_, now.patience) &&
                          number(state, cooldown_counter_, now.cooldown_counter) &&
                          number(state, num_bad_epochs_, now.bad) && number(state, last_epoch_, now.epoch);
    if (!rates || !complete) return false;
    const bool better = fs::is_better(now, PyFloat_AS_DOUBLE(metric.ptr()));
    const double bad = better || now.cooldown_counter > 0.0 ? 0.0 : now.bad + 1.0;
    if (bad > now.patience) return false;
    if (better) fs::cells::set(state, best_, metric.ptr());
    if (now.cooldown_counter > 0.0) add(state, cooldown_counter_, -1);
    fs::cells::set(state, num_bad_epochs_, py::int_(static_cast<int64_t>(bad)).ptr());
    add(state, last_epoch_, 1);
    fs::cells::set(state, last_lr_, rates.ptr());
    return true;
  }

 private:
  static bool number(PyObject* state, const py::object& name, double& value) {
    PyObject* found = fs::cells::get(state, name);
    if (found == nullptr || !(PyFloat_CheckExact(found) || PyLong_CheckExact(found))) return false;
    value = PyFloat_AsDouble(found);
    if (value == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return true;
  }

  static void add(PyObject* state, const py::object& name, int by) {
    const py::object sum = py::reinterpret_borrow<py::object>(fs::cells::get(state, name)) + py::int_(by);
    fs::cells::set(state, name, sum.ptr());
  }

  bool comparison_of(PyObject* state, double& comparison) const {
    PyObject *mode = fs::cells::get(state, mode_), *threshold_mode = fs::cells::get(state, threshold_mode_);
    if (mode == nullptr || threshold_mode == nullptr || !PyUnicode_Check(mode) || !PyUnicode_Check(threshold_mode)) {
      return false;
    }
    const bool relative = PyUnicode_CompareWithASCIIString(threshold_mode, "rel") == 0;
    if (PyUnicode_CompareWithASCIIString(mode, "min") == 0) {
      comparison = relative ? fs::kMinRelative : fs::kMinAbsolute;
    } else {
      comparison = relative && PyUnicode_CompareWithASCIIString(mode, "max") == 0 ? fs::kMaxRelative : fs::kMaxAbsolute;
    }
    return true;
  }

  // A list of them, if all are floats and no parameter is on a GPU; else nothing.
  py::object rates_of(PyObject* state) const {
    PyObject* optimizer = fs::cells::get(state, optimizer_);
    const py::object attributes =
        py::reinterpret_steal<py::object>(optimizer == nullptr ? nullptr : PyObject_GenericGetDict(optimizer, nullptr));
    if (!attributes) throw py::error_already_set();
    PyObject* groups = fs::cells::get(attributes.ptr(), param_groups_);
    if (groups == nullptr || !PyList_CheckExact(groups)) return {};
    py::list rates(PyList_GET_SIZE(groups));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(groups); ++i) {
      PyObject* group = PyList_GET_ITEM(groups, i);
      PyObject* rate = PyDict_Check(group) ? fs::cells::get(group, lr_) : nullptr;
      PyObject* params = rate == nullptr ? nullptr : fs::cells::get(group, params_);
      if (params == nullptr || !PyFloat_CheckExact(rate) || !PyList_CheckExact(params)) return {};
      PyObject* first = PyList_GET_SIZE(params) > 0 ? PyList_GET_ITEM(params, 0) : nullptr;
      if (first != nullptr && !(fs::is_tensor(first) && fs::tensor_of(first).is_cpu())) return {};
      PyList_SET_ITEM(rates.ptr(), i, Py_NewRef(rate));
    }
    return std::move(rates);
  }

  Py_ssize_t attributes_;
  py::object best_ = fs::cells::interned("best"), threshold_ = fs::cells::interned("threshold"),
             mode_ = fs::cells::interned("mode"), threshold_mode_ = fs::cells::interned("threshold_mode"),
             patience_ = fs::cells::interned("patience"), cooldown_counter_ = fs::cells::interned("cooldown_counter"),
             num_bad_epochs_ = fs::cells::interned("num_bad_epochs"), last_epoch_ = fs::cells::interned("last_epoch"),
             last_lr_ = fs::cells::interned("_last_lr"), optimizer_ = fs::cells::interned("optimizer"),
             param_groups_ = fs::cells::interned("param_groups"), lr_ = fs::cells::interned("lr"),
             params_ = fs::cells::interned("params");
};

}  // namespace

void bind_metric(py::module_& m) {
  m.def("observe_metric", &observe, py::arg("table"), py::arg("metric"), py::arg("stream"),
        "One launch that decides by a metric: fusedsched/lr_scheduler/metric_state.py has the table.");
  py::class_<QuietSteps>(m, "QuietSteps", "Steps of ReduceLROnPlateau on the host that change no learning rate.")
      .def(py::init<Py_ssize_t>(), py::arg("attributes"))
      .def("advance", &QuietSteps::advance, py::arg("scheduler"), py::arg("metric"));
}
