// SPDX-License-Identifier: Apache-2.0
#include "plan/group.h"

#include <limits>

#include "core/schedule.h"
#include "plan/tensors.h"

namespace fs {

bool WatchedDict::trust_tags = true;

namespace {

struct SlotName {
  const char* name;
  const char* key;
  int item;
  bool flag = false;  // what counts is whether it is true, as Python has it
};

constexpr SlotName kAdamSlots[] = {{"lr", "lr", -1},
                                   {"beta1", "betas", 0},
                                   {"beta2", "betas", 1},
                                   {"eps", "eps", -1},
                                   {"weight_decay", "weight_decay", -1},
                                   {"amsgrad", "amsgrad", -1, true},
                                   {"maximize", "maximize", -1, true},
                                   {"decoupled_weight_decay", "decoupled_weight_decay", -1, true}};
constexpr SlotName kSGDSlots[] = {{"lr", "lr", -1},           {"momentum", "momentum", -1},
                                  {"dampening", "dampening", -1}, {"weight_decay", "weight_decay", -1},
                                  {"nesterov", "nesterov", -1, true}, {"maximize", "maximize", -1, true}};

// Whether nobody can change the number inside; of a tensor, that is looked at anyway.
bool is_constant(PyObject* object) {
  return PyFloat_Check(object) || PyLong_Check(object) || object == Py_None ||
         is_tensor(object);
}

double number(const Slot& slot, PyObject* object) {
  if (slot.flag) {
    const int truth = PyObject_IsTrue(object);
    if (truth < 0) throw_python_error();
    return truth;
  }
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error("param_groups[...]['" + slot.name + "'] is " + std::string(py::str(py::handle(object))) +
                         ", which is not a number. Set it to a float, an int or a tensor with one element.");
  }
  return value;
}

double number(const at::Tensor& tensor) {
  if (is_native(tensor, at::kCPU)) {
    if (tensor.scalar_type() == at::kDouble) return *unwrap<const double>(tensor);
    if (tensor.scalar_type() == at::kFloat) return *unwrap<const float>(tensor);
  }
  return tensor.item().toDouble();
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

Group::Group(py::dict dict, bool adam, std::optional<at::Device> device) : device_(device) {
  dict_.watch(std::move(dict));
  auto add = [this](const SlotName& n) {
    slots_.push_back({n.name, PyUnicode_InternFromString(n.key), n.item, n.flag});
  };
  if (adam) {
    for (const SlotName& n : kAdamSlots) add(n);
  } else {
    for (const SlotName& n : kSGDSlots) add(n);
  }
  read_items();
  read_values();  // which state there has to be depends on them
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params_.ptr()); ++i) members_.push_back(PySequence_Fast_GET_ITEM(params_.ptr(), i));
}

void Group::read_items() {
  static PyObject* const params_key = PyUnicode_InternFromString("params");
  volatile_ = has_tensors_ = false;
  PyObject* params = PyDict_GetItemWithError(dict_.get().ptr(), params_key);
  if (params == nullptr || (!PyList_Check(params) && !PyTuple_Check(params))) {
    throw py::type_error("param_groups[...]['params'] must be a list or a tuple.");
  }
  if (params != params_.ptr()) params_ = py::reinterpret_borrow<py::object>(params);
  for (Slot& slot : slots_) {
    PyObject* object = PyDict_GetItemWithError(dict_.get().ptr(), slot.key);
    if (object == nullptr) {
      throw py::key_error("param_groups[...] has no '" + std::string(py::str(py::handle(slot.key))) +
                          "': it was removed or never loaded.");
    }
    py::object item;  // keeps an item alive that a sequence makes when asked
    if (slot.item >= 0 && PyTuple_CheckExact(object) && slot.item < PyTuple_GET_SIZE(object)) {
      object = PyTuple_GET_ITEM(object, slot.item);
    } else if (slot.item >= 0) {
      volatile_ = true;
      item = py::reinterpret_borrow<py::object>(object)[py::int_(slot.item)];  // a tensor gives one, too
      object = item.ptr();
    }
    if (!is_constant(object)) volatile_ = true;
    if (object == slot.object.ptr() && (slot.tensor.defined() || is_constant(object))) {  // the same number as before
      has_tensors_ |= slot.tensor.defined();
      continue;
    }
    slot.object = py::reinterpret_borrow<py::object>(object);
    slot.on_device = false;
    changed_ = true;
    if (is_tensor(slot.object.ptr())) {
      slot.tensor = tensor_of(slot.object.ptr());
      TORCH_CHECK_VALUE(slot.tensor.numel() == 1, "Tensor ", slot.name, " must be 1-element, got ",
                        slot.tensor.numel(), " elements.");
      has_tensors_ = true;
      slot.on_device = device_ && is_native(slot.tensor, *device_);
      if (slot.on_device) slot.value = std::numeric_limits<double>::quiet_NaN();
    } else {
      slot.tensor.reset();
      slot.value = number(slot, slot.object.ptr());
    }
  }
  dict_.looked();
}

bool Program::locate() {
  const bool number = is_native(*shown.unsafeGetTensorImpl()) && shown.scalar_type() == at::kDouble &&
                      shown.numel() == 1 && is_backed(shown);
  edited |= !number;  // somebody has made something else of it
  double* now = number ? static_cast<double*>(unwrap(shown)) : place;
  return std::exchange(place, now) != now;
}

// Where the number can be looked at.
void Group::find_edit(Program& program) {
  if (device_ || !program.here || program.edited || *program.place == program.written) return;
  program.edited = newly_edited_ = true;
}

void Group::read_scheduled(Slot& slot) {
  Program& program = *slot.program;
  changed_ |= program.locate();
  const bool ours = slot.scheduled();
  if (!ours && !program.edited) newly_edited_ = true;  // not kept: putting the tensor back resumes the schedule
  if (ours) find_edit(program);
  if (ours && device_ && program.here) {
    const uint32_t version = slot.tensor._version();
    newly_edited_ |= std::exchange(program.version, version) != version;
  }
}

void Group::read_values() {
  for (Slot& slot : slots_) {
    if (slot.program) read_scheduled(slot);
    if (slot.on_device) {
      const void* now = unwrap<const void>(slot.tensor);
      changed_ |= std::exchange(slot.address, now) != now;
    }
    if (!slot.tensor.defined() || slot.on_device || (slot.scheduled() && !slot.program->here)) continue;
    const double value = number(slot.tensor);
    changed_ |= value != slot.value;
    slot.value = value;
  }
}

bool Group::refresh() {
  PyObject* before = params_.ptr();
  if (volatile_ || dict_.may_have_changed()) read_items();
  if (has_tensors_ || has_programs_) read_values();
  if (params_.ptr() != before || PySequence_Fast_GET_SIZE(before) != static_cast<Py_ssize_t>(members_.size())) return false;
  for (size_t i = 0; i < members_.size(); ++i) {
    if (PySequence_Fast_GET_ITEM(before, i) != members_[i]) return false;
  }
  return true;
}

void Group::set_program(const std::string& name, std::vector<double> table, int unit, const at::Tensor& shown,
                        const int64_t* clocks) {
  for (Slot& slot : slots_) {
    if (slot.name != name) continue;
    slot.program = std::make_unique<Program>();
    slot.program->table = std::move(table);
    slot.program->unit = unit;
    slot.program->shown = shown;
    slot.program->locate();
    slot.program->version = shown._version();
    slot.program->here = shown.device() == device_.value_or(at::kCPU);
    if (!device_ && slot.program->here) slot.program->written = *slot.program->place;  // not an edit
    has_programs_ = changed_ = true;
    if (!device_) show(clocks);
    return;
  }
  throw py::value_error("'" + name + "' cannot be scheduled by this optimizer.");
}

void Group::check_horizons(const int64_t* clocks) const {
  for (const Slot& slot : slots_) {
    if (!slot.program || slot.program->edited) continue;
    const double horizon = slot.program->table[2];
    if (horizon >= 0.0 && static_cast<double>(clocks[slot.program->unit]) > horizon) {
      throw std::runtime_error("The schedule of '" + slot.name + "' ends at step " +
                               std::to_string(static_cast<int64_t>(horizon)) +
                               " and past_end=\"error\" was asked for. Give it more steps, or past_end=\"hold\".");
    }
  }
}

void Group::show(const int64_t* clocks) {
  for (Slot& slot : slots_) {
    if (!slot.program) continue;
    Program& program = *slot.program;
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
      slot.value = program.written;
    }
  }
}

}  // namespace fs
