// SPDX-License-Identifier: Apache-2.0
#include "group.h"

#include <torch/csrc/autograd/python_variable.h>

#include <limits>

#include "core/schedule.h"
#include "tensors.h"

namespace fs {

bool WatchedDict::trust_tags = true;

namespace {

struct SlotName {
  const char* name;
  const char* key;
  int item;
};

constexpr SlotName kAdamSlots[] = {{"lr", "lr", -1},
                                   {"beta1", "betas", 0},
                                   {"beta2", "betas", 1},
                                   {"eps", "eps", -1},
                                   {"weight_decay", "weight_decay", -1},
                                   {"amsgrad", "amsgrad", -1},
                                   {"maximize", "maximize", -1},
                                   {"decoupled_weight_decay", "decoupled_weight_decay", -1}};
constexpr SlotName kSGDSlots[] = {{"lr", "lr", -1},           {"momentum", "momentum", -1},
                                  {"dampening", "dampening", -1}, {"weight_decay", "weight_decay", -1},
                                  {"nesterov", "nesterov", -1},   {"maximize", "maximize", -1}};

double number(const Slot& slot, PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error("param_groups[...]['" + slot.name + "'] is " + std::string(py::str(py::handle(object))) +
                         ", which is not a number. Set it to a float, an int or a tensor with one element.");
  }
  return value;
}

double number(const at::Tensor& tensor) {
  if (tensor.device().is_cpu() && tensor.scalar_type() == at::kDouble) return *tensor.const_data_ptr<double>();
  if (tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat) return *tensor.const_data_ptr<float>();
  return tensor.item().toDouble();
}

}  // namespace

Group::Group(py::dict dict, bool adam, std::optional<at::Device> device) : device_(device) {
  dict_.watch(std::move(dict));
  auto add = [this](const SlotName& n) {
    slots_.push_back({n.name, PyUnicode_InternFromString(n.key), n.item});
  };
  if (adam) {
    for (const SlotName& n : kAdamSlots) add(n);
  } else {
    for (const SlotName& n : kSGDSlots) add(n);
  }
  read_items();
  read_values();  // which state there has to be depends on them
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params_.ptr()); ++i) members_.push_back(PyList_GET_ITEM(params_.ptr(), i));
}

void Group::read_items() {
  static PyObject* const params_key = PyUnicode_InternFromString("params");
  volatile_ = has_tensors_ = false;
  PyObject* params = PyDict_GetItemWithError(dict_.get().ptr(), params_key);
  if (params == nullptr || !PyList_Check(params)) throw py::type_error("param_groups[...]['params'] must be a list.");
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
      item = py::reinterpret_borrow<py::sequence>(object)[slot.item];
      object = item.ptr();
    }
    if (object == slot.object.ptr()) {  // the same number as before
      has_tensors_ |= slot.tensor.defined();
      continue;
    }
    slot.object = py::reinterpret_borrow<py::object>(object);
    slot.on_device = false;
    changed_ = true;
    if (THPVariable_Check(slot.object.ptr())) {
      slot.tensor = THPVariable_Unpack(slot.object.ptr());
      TORCH_CHECK_VALUE(slot.tensor.numel() == 1, "Tensor ", slot.name, " must be 1-element, got ",
                        slot.tensor.numel(), " elements.");
      has_tensors_ = true;
      slot.on_device = device_ && slot.tensor.device() == *device_ && dtype_of(slot.tensor.scalar_type());
      if (slot.on_device) slot.value = std::numeric_limits<double>::quiet_NaN();
    } else {
      slot.tensor.reset();
      slot.value = number(slot, slot.object.ptr());
    }
  }
  dict_.looked();
}

void Group::read_scheduled(Slot& slot) {
  Program& program = *slot.program;
  const bool ours = slot.scheduled();
  if (!ours && !program.edited) newly_edited_ = true;  // not kept: putting the tensor back resumes the schedule
  if (ours && !device_ && program.here && !program.edited && *program.shown != program.written) {
    program.edited = newly_edited_ = true;
  }
  if (ours && device_ && program.here) {
    const uint32_t version = slot.tensor._version();
    newly_edited_ |= std::exchange(program.version, version) != version;
  }
}

void Group::read_values() {
  for (Slot& slot : slots_) {
    if (slot.program) read_scheduled(slot);
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
  if (params_.ptr() != before || PyList_GET_SIZE(before) != static_cast<Py_ssize_t>(members_.size())) return false;
  for (size_t i = 0; i < members_.size(); ++i) {
    if (PyList_GET_ITEM(before, i) != members_[i]) return false;
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
    slot.program->shown = static_cast<double*>(shown.mutable_data_ptr());
    slot.program->version = shown._version();
    slot.program->here = shown.device() == device_.value_or(at::kCPU);
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
    if (!slot.program || slot.program->edited) continue;
    Program& program = *slot.program;
    const double horizon = program.table[2];
    double clock = static_cast<double>(clocks[program.unit]);
    if (horizon >= 0.0 && clock > horizon) clock = horizon;  // check_horizons speaks at the next step
    program.written = evaluate(program.table.data(), clock);
    if (program.here) {
      *program.shown = program.written;
    } else {
      slot.value = program.written;
    }
  }
}

}  // namespace fs
