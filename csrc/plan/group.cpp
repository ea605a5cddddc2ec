// SPDX-License-Identifier: Apache-2.0
#include "plan/group.h"

#include <limits>

#include "core/schedule.h"
#include "plan/program.h"
#include "plan/tensors.h"

namespace fs {

bool WatchedDict::trust_tags = true;

namespace {

// Whether the object can be read once and for all. A tensor is read at each step anyway.
bool is_constant(PyObject* object) {
  return PyFloat_Check(object) || PyLong_Check(object) || object == Py_None || is_tensor(object);
}

// Whether a tensor with one element is read without torch's operations, which run the code of its class, or a mode's.
bool is_read_directly(const at::Tensor& tensor) {
  return is_native(tensor, at::kCPU) && (tensor.scalar_type() == at::kDouble || tensor.scalar_type() == at::kFloat) &&
         !tensor.is_neg();
}

void check_backed(const at::Tensor& tensor, const std::string& name) {
  TORCH_CHECK(!is_native(*tensor.unsafeGetTensorImpl()) || is_backed(tensor), "The memory of the tensor that is the ", name,
              " of a group is gone: it was freed by untyped_storage().resize_(). Bring it back before step().");
}

double number_in(const at::Tensor& tensor) {
  if (!is_read_directly(tensor)) return tensor.item().toDouble();
  return tensor.scalar_type() == at::kDouble ? *unwrap<const double>(tensor) : *unwrap<const float>(tensor);
}

PyObject* params_of(PyObject* group) {
  static PyObject* const key = PyUnicode_InternFromString("params");
  return PyDict_GetItemWithError(group, key);
}

}  // namespace

bool holds_native_tensors(PyObject* state) {
  if (state == nullptr || !PyDict_Check(state)) return true;
  PyObject *key, *value;
  Py_ssize_t at = 0;
  while (PyDict_Next(state, &at, &key, &value)) {
    if (is_tensor(value) && !is_native(*tensor_of(value).unsafeGetTensorImpl())) return false;
  }
  return true;
}

Group::Group(PyObject* dict, int index, const Spec& spec, std::optional<at::Device> device)
    : index_(index), spec_(&spec), device_(device) {
  dict_.watch(dict);
  for (const HyperparameterKey& key : spec.hyperparameters) hyperparameters_.emplace_back().key = &key;
  read_items();
  read_values();  // which state there has to be depends on them
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params_); ++i) {
    members_.push_back(PySequence_Fast_GET_ITEM(params_, i));
  }
}

// How errors name an item.
std::string Group::place(PyObject* key) const {
  return "param_groups[" + std::to_string(index_) + "][" + std::string(py::repr(py::handle(key))) + "]";
}

double Group::number(const Hyperparameter& h, PyObject* object) const {
  if (h.key->flag) {
    const int truth = PyObject_IsTrue(object);
    if (truth < 0) throw_python_error();
    return truth;
  }
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(place(h.key->key) + " is " + std::string(py::repr(py::handle(object))) +
                         ", which is not a number. Set it to a float, an int or a tensor with one element.");
  }
  return value;
}

// Throws, with Python's sentences for `beta1, beta2 = group["betas"]`, if there are not two.
void Group::check_pair(PyObject* key, PyObject* object) const {
  const Py_ssize_t n = PyObject_Size(object);
  if (n == 2) return;
  PyErr_Clear();
  const std::string found =
      place(key) + " is " + std::string(py::repr(py::handle(object))) + ". Set it to two numbers.";
  if (n < 0) throw py::type_error(found);
  throw py::value_error((n > 2 ? "too many values to unpack (expected 2). "
                               : "not enough values to unpack (expected 2, got " + std::to_string(n) + "). ") + found);
}

void Group::expect_other_code() {
  if (std::exchange(other_code_, true) && alive_.items) return;
  alive_.group = py::reinterpret_borrow<py::object>(dict_.ptr());
  alive_.items = py::reinterpret_steal<py::object>(PyDict_Copy(dict_.ptr()));
  if (!alive_.items) throw_python_error();
}

void Group::read_items() {
  volatile_ = has_tensors_ = false;
  params_ = params_of(dict_.ptr());
  if (params_ == nullptr || (!PyList_Check(params_) && !PyTuple_Check(params_))) {
    throw py::type_error(place(py::str("params").ptr()) + " must be a list or a tuple.");
  }
  for (Hyperparameter& h : hyperparameters_) {
    PyObject* object = PyDict_GetItemWithError(dict_.ptr(), h.key->key);
    if (object == nullptr) {
      throw py::key_error("param_groups[" + std::to_string(index_) + "] has no " +
                          std::string(py::repr(py::handle(h.key->key))) + ": it was removed or never loaded.");
    }
    if (h.key->item == 0) {
      if (!PyTuple_CheckExact(object) && !PyList_CheckExact(object)) expect_other_code();
      check_pair(h.key->key, object);
    }
    if (h.key->item < 0) {
      read_object(h, object, true);
    } else if (PyTuple_CheckExact(object) && h.key->item < PyTuple_GET_SIZE(object)) {
      read_object(h, PyTuple_GET_ITEM(object, h.key->item), true);
    } else {
      volatile_ = true;
      if (!PyList_CheckExact(object)) expect_other_code();
      const py::object item = py::reinterpret_borrow<py::object>(object)[py::int_(h.key->item)];
      read_object(h, item.ptr(), false);
    }
  }
  dict_.looked();
}

// lasting: the dictionary keeps it alive; else it was made when it was asked for, as by a tensor of two betas.
void Group::read_object(Hyperparameter& h, PyObject* object, bool lasting) {
  const bool tensor = is_tensor(object);
  volatile_ |= !is_constant(object);
  has_tensors_ |= tensor;
  const at::TensorImpl* impl = tensor ? tensor_of(object).unsafeGetTensorImpl() : nullptr;
  if (object == h.object && impl == h.impl && is_constant(object)) return;  // the same number as before
  if (!is_constant(object)) expect_other_code();
  const double value = tensor ? value_of(h) : number(h, object);
  TORCH_CHECK_VALUE(!tensor || impl->numel() == 1, "Tensor ", h.key->name, " must be 1-element, got ", impl->numel(),
                    " elements.");
  h.object = object;
  h.owned = tensor && lasting ? py::object() : py::reinterpret_borrow<py::object>(object);
  h.impl = impl;
  h.on_device = tensor && device_ && is_native(h.tensor(), *device_);
  value_of(h) = value;
  changed_ = true;
  if (!h.on_device) return;
  h.dtype = *dtype_of(h.tensor().scalar_type());
  value_of(h) = std::numeric_limits<double>::quiet_NaN();
}

bool Program::locate() {
  const bool number = is_native(*shown.unsafeGetTensorImpl()) && shown.scalar_type() == at::kDouble &&
                      shown.numel() == 1 && is_backed(shown);
  edited |= !number;  // user code has made something else of it
  double* now = number ? static_cast<double*>(unwrap(shown)) : place;
  return std::exchange(place, now) != now;
}

// Where the number can be looked at.
void Group::find_edit(Program& program) {
  if (device_ || !program.here || program.edited || *program.place == program.written) return;
  program.edited = newly_edited_ = true;
}

void Group::read_scheduled(Hyperparameter& h) {
  Program& program = *h.program;
  changed_ |= program.locate();
  const bool ours = h.scheduled();
  if (!ours && !program.edited) newly_edited_ = true;  // not kept: putting the tensor back resumes the schedule
  if (ours) find_edit(program);
  if (ours && device_ && program.here) {
    const uint32_t version = h.tensor()._version();
    newly_edited_ |= std::exchange(program.version, version) != version;
  }
}

void Group::read_values() {
  for (Hyperparameter& h : hyperparameters_) {
    if (h.impl != nullptr && h.impl != h.tensor().unsafeGetTensorImpl()) {  // swapped with another
      read_object(h, h.object, h.owned.ptr() == nullptr);
    }
    if (h.program) read_scheduled(h);
    if (h.impl != nullptr) check_backed(h.tensor(), h.key->name);
    if (h.on_device) {
      const void* now = unwrap<const void>(h.tensor());
      changed_ |= std::exchange(h.address, now) != now;
    }
    if (h.impl == nullptr || h.on_device || (h.scheduled() && !h.program->here)) continue;
    if (!is_read_directly(h.tensor())) expect_other_code();
    const double value = number_in(h.tensor());
    changed_ |= value != value_of(h);
    value_of(h) = value;
  }
}

bool Group::refresh() {
  const Alive::Until done{alive_};
  PyObject* before = params_;
  if (volatile_ || dict_.may_have_changed()) read_items();
  if (has_tensors_ || has_programs_) read_values();
  return params_ == before && has_same_members();
}

bool Group::has_same_members() const {
  if (PySequence_Fast_GET_SIZE(params_) != static_cast<Py_ssize_t>(members_.size())) return false;
  for (size_t i = 0; i < members_.size(); ++i) {
    if (PySequence_Fast_GET_ITEM(params_, i) != members_[i]) return false;
  }
  return true;
}

bool Group::has_same_list() const { return params_of(dict_.ptr()) == params_ && has_same_members(); }

void Group::set_program(const std::string& name, std::vector<double> table, int unit, const at::Tensor& shown,
                        const int64_t* clocks) {
  check_program(table.data(), table.size());
  if (unit < 0 || unit >= kClocks) throw py::value_error("There is no clock " + std::to_string(unit) + ".");
  for (Hyperparameter& h : hyperparameters_) {
    if (h.key->name != name) continue;
    h.program = std::make_unique<Program>();
    h.program->table = std::move(table);
    h.program->unit = unit;
    h.program->shown = shown;
    h.program->locate();
    h.program->version = shown._version();
    h.program->here = shown.device() == device_.value_or(at::kCPU);
    if (!device_ && h.program->here) h.program->written = *h.program->place;  // not an edit
    has_programs_ = changed_ = true;
    if (!device_) show(clocks);
    return;
  }
  throw py::value_error("'" + name + "' cannot be scheduled by this optimizer.");
}

void Group::check_horizons(const int64_t* clocks) const {
  for (const Hyperparameter& h : hyperparameters_) {
    if (!h.program || h.program->edited) continue;
    const double horizon = h.program->table[2];
    if (horizon >= 0.0 && static_cast<double>(clocks[h.program->unit]) > horizon) {
      throw std::runtime_error("The schedule of '" + h.key->name + "' ends at step " +
                               std::to_string(static_cast<int64_t>(horizon)) +
                               " and past_end=\"error\" was asked for. Give it more steps, or past_end=\"hold\".");
    }
  }
}

void Group::show(const int64_t* clocks) {
  for (Hyperparameter& h : hyperparameters_) {
    if (!h.program) continue;
    Program& program = *h.program;
    program.locate();
    find_edit(program);
    if (program.edited) continue;
    const double horizon = program.table[2];
    double clock = static_cast<double>(clocks[program.unit]);
    if (horizon >= 0.0 && clock > horizon) clock = horizon;  // check_horizons speaks at the next step
    program.written = evaluate(program.table.data(), clock);
    if (program.here) {
      *program.place = program.written;
    } else {
      value_of(h) = program.written;
    }
  }
}

}  // namespace fs
