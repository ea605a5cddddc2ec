// SPDX-License-Identifier: Apache-2.0
#include "plan/plan.h"

#include <ATen/MemoryOverlap.h>

#include <unordered_map>

#include "plan/work.h"

namespace fs {

namespace {

constexpr const char* kAdamState[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
constexpr const char* kSGDState[] = {"momentum_buffer"};

PyObject* key_of(const char* name) { return PyUnicode_InternFromString(name); }

PyObject* state_key(bool adam, int k) {
  static PyObject* const adam_keys[] = {key_of(kAdamState[0]), key_of(kAdamState[1]), key_of(kAdamState[2])};
  static PyObject* const sgd_keys[] = {key_of(kSGDState[0])};
  return adam ? adam_keys[k] : sgd_keys[k];
}

PyObject* step_key() {
  static PyObject* const key = key_of("step");
  return key;
}

}  // namespace

Plan::~Plan() = default;

Plan::Plan(bool adam, py::list param_groups, py::dict state, at::Tensor clocks, at::Device device, bool on_host)
    : adam_(adam),
      device_(device),
      on_host_(on_host),
      param_groups_(std::move(param_groups)),
      clocks_(std::move(clocks)),
      work_(std::make_shared<Work>()) {
  state_.watch(std::move(state));
  for (py::handle handle : param_groups_) {
    const int32_t g = static_cast<int32_t>(groups_.size());
    groups_.emplace_back(py::reinterpret_borrow<py::dict>(handle), adam_,
                         on_host ? std::nullopt : std::optional<at::Device>(device));
    group_objects_.push_back(handle.ptr());
    PyObject* params = groups_.back().params();
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params); ++i) {
      Entry entry;
      entry.group = g;
      entry.index = static_cast<int32_t>(i);
      add(std::move(entry), PySequence_Fast_GET_ITEM(params, i));
    }
  }
  std::unordered_map<at::TensorImpl*, int> listed;
  for (const Entry& e : entries_) ++listed[e.param().unsafeGetTensorImpl()];
  const std::vector<bool> shared = sharing();
  for (Entry& e : entries_) e.foreign |= shared[e.at] || listed[e.param().unsafeGetTensorImpl()] > 1;
  remember_state();
}

void Plan::remember_state() {
  state_items_.clear();
  PyObject *key, *value;
  Py_ssize_t at = 0;
  while (PyDict_Next(state_.get().ptr(), &at, &key, &value)) state_items_.emplace_back(key, value);
  state_.looked();
}

// Whether each parameter's state is still the dictionary that it was. Walking the items is far cheaper than looking
// each up: a lookup would call Tensor.__hash__.
bool Plan::same_state(const py::dict& state) {
  if (!state.is(state_.get())) return false;
  if (!state_.may_have_changed()) return true;
  PyObject *key, *value;
  Py_ssize_t at = 0;
  size_t i = 0;
  for (; PyDict_Next(state.ptr(), &at, &key, &value); ++i) {
    if (i == state_items_.size() || state_items_[i] != std::make_pair(key, value)) return false;
  }
  state_.looked();
  return i == state_items_.size();
}

void Plan::add(Entry entry, PyObject* object) {
  entry.object = py::reinterpret_borrow<py::object>(object);
  entry.at = static_cast<int32_t>(entries_.size());
  beside_.emplace_back();
  found_.emplace_back();
  const at::Tensor& p = entry.param();
  PyObject* state = PyDict_GetItemWithError(state_.get().ptr(), object);
  entry.foreign = !is_native(p, device_) || !holds_native_tensors(state);
  if (!entry.foreign) {
    entry.gathered = has_gaps(p);
    TORCH_CHECK(!entry.gathered || at::has_internal_overlap(p) != at::MemOverlap::Yes,
                "unsupported operation: more than one element of the written-to tensor refers to a single memory "
                "location. Parameter ", entry.index, " of group ", entry.group, " with shape ", p.sizes(),
                " is expanded; clone() it before it becomes a parameter.");
    const at::Tensor like = entry.gathered ? p.new_empty_strided(p.sizes(), dense_strides(p)) : p;
    Layout layout;
    layout.sizes.assign(like.sizes().begin(), like.sizes().end());
    layout.strides.assign(like.strides().begin(), like.strides().end());
    layout.numel = like.numel();
    layout.contiguous = like.is_contiguous();
    entry.layout = interned(layouts_, layout);
    if (state != nullptr && PyDict_Check(state)) read_state(entry, state);
    if (PyErr_Occurred()) throw_python_error();
  }
  entries_.push_back(std::move(entry));
}

void Plan::read_state(Entry& entry, PyObject* state) {
  entry.state_dict.watch(py::reinterpret_borrow<py::dict>(state));
  Found& found = found_[entry.at];
  entry.states = -1;
  entry.kind = nullptr;
  entry.step.reset();
  entry.shown_step = nullptr;
  const int wanted = states_of(rule_of(groups_[entry.group]));
  for (int k = 0; k < wanted; ++k) {
    PyObject* object = PyDict_GetItemWithError(state, state_key(adam_, k));
    if (object == nullptr || !is_tensor(object)) return;
    entry.state[k] = tensor_of(object);
    found.state[k] = object;
    TORCH_CHECK(is_native(entry.state[k], device_) && entry.layout->matches(*entry.state[k].unsafeGetTensorImpl()),
                "state['", std::string(py::str(py::handle(state_key(adam_, k)))), "'] of parameter ",
                entry.index, " of group ", entry.group, " has shape ", entry.state[k].sizes(), ", strides ",
                entry.state[k].strides(), " and dtype ", entry.state[k].scalar_type(), " on ",
                entry.state[k].device(), "; the parameter has shape ", entry.param().sizes(), " on ",
                entry.param().device(), ". Load a state that belongs to this model.");
  }
  if (adam_) {
    PyObject* object = PyDict_GetItemWithError(state, step_key());
    if (object == nullptr || !is_tensor(object)) return;
    const at::Tensor& step = tensor_of(object);
    TORCH_CHECK(is_count(step), "state['step'] of parameter ", entry.index, " of group ", entry.group,
                " must be a float32 tensor with one element on ", device_, ".");
    found.state[kMaxStates] = object;
    entry.step = step;
    entry.shown_step = static_cast<float*>(unwrap(step));
    int64_t& count = beside_[entry.at].step;
    if (on_host_ && static_cast<float>(count) != *entry.shown_step) count = static_cast<int64_t>(*entry.shown_step);
  }
  entry.states = static_cast<int8_t>(wanted);
}

bool Plan::is_count(const at::Tensor& step) const {
  return is_native(step, device_) && step.scalar_type() == at::kFloat && step.numel() == 1 && is_backed(step);
}

bool Plan::state_unchanged(Entry& entry) {
  if (!entry.state_dict.may_have_changed()) return true;
  PyObject* dict = entry.state_dict.get().ptr();
  const int wanted = states_of(rule_of(groups_[entry.group]));
  for (int k = 0; k < wanted; ++k) {
    if (PyDict_GetItemWithError(dict, state_key(adam_, k)) != found_[entry.at].state[k]) return false;
  }
  if (adam_ && PyDict_GetItemWithError(dict, step_key()) != found_[entry.at].state[kMaxStates]) return false;
  entry.state_dict.looked();
  return true;
}

// Whether all of a parameter's state is there: a plan that was made under a rule of less state did not read it.
bool Plan::has_state(const Entry& entry, int wanted) const {
  PyObject* dict = PyDict_GetItemWithError(state_.get().ptr(), entry.object.ptr());
  if (dict == nullptr || !PyDict_Check(dict)) return false;
  const auto has_tensor = [dict](PyObject* key) {
    PyObject* object = PyDict_GetItemWithError(dict, key);
    return object != nullptr && is_tensor(object);
  };
  for (int k = 0; k < wanted; ++k) {
    if (!has_tensor(state_key(adam_, k))) return false;
  }
  return !adam_ || has_tensor(step_key());
}

Rule Plan::rule_of(const Group& group) const {
  if (adam_) {
    const bool coupled = group[AdamSlot::kDecoupled] == 0.0 && group[AdamSlot::kWeightDecay] != 0.0;
    const bool amsgrad = group[AdamSlot::kAmsgrad] != 0.0;
    return coupled ? (amsgrad ? kAdamCoupledAmsgrad : kAdamCoupled) : (amsgrad ? kAdamWAmsgrad : kAdamW);
  }
  const bool decay = group[SGDSlot::kWeightDecay] != 0.0;
  if (group[SGDSlot::kMomentum] == 0.0) return decay ? kSGDDecay : kSGD;
  if (group[SGDSlot::kNesterov] != 0.0) return decay ? kSGDNesterovDecay : kSGDNesterov;
  return decay ? kSGDMomentumDecay : kSGDMomentum;
}

int Plan::states_of(Rule rule) const {
#define FS_STATES(name, ...) \
  if (rule == name) return __VA_ARGS__::kStates;
  FS_RULES(FS_STATES)
#undef FS_STATES
  return 0;
}

bool Plan::same_structure(const py::list& param_groups) {
  if (param_groups.size() != groups_.size()) return false;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (PyList_GET_ITEM(param_groups.ptr(), g) != group_objects_[g]) return false;
    if (!groups_[g].refresh()) return false;
  }
  return true;
}

Plan::Outcome Plan::check(const py::list& param_groups, const py::dict& state) {
  if (!same_state(state) || !same_structure(param_groups)) return kRebuild;
  check_horizons();
  missing_.clear();
  if (!collect(*work_) || (work_->moved && shares_anew())) return kRebuild;
  if (on_host_) work_->moved = false;  // else that is for the tables to say
  return missing_.empty() ? kDone : kStateMissing;
}

bool Plan::pending() const { return !work_->entries.empty(); }

Plan::Outcome Plan::step(const py::list& param_groups, const py::dict& state, const OptionalTensor& scale,
                         const OptionalTensor& found_inf) {
  // Before state is made for it. On a device the kernel finds out.
  if (on_host_ && found_inf && found_inf->item<double>() != 0.0) return skip(param_groups, *found_inf);
  const Outcome outcome = check(param_groups, state);
  return outcome == kDone ? apply(scale, found_inf, false) : outcome;
}

// Autograd has to know that what it saved of these parameters is no longer true.
void Plan::bump_versions(Work& work) {
  for (Entry* entry : work.entries) {
    at::TensorImpl* impl = entry->param().unsafeGetTensorImpl();
    if (!entry->gathered && !impl->is_inference()) impl->bump_version();
  }
}

void Plan::finish(Work& work) {
  at::NoGradGuard no_grad;
  for (Entry* entry : work.gathered) entry->param().copy_(found_[entry->at].dense);
  work.copies.clear();
  work.gathered.clear();
}

Plan::Outcome Plan::outcome() {
  bool edits = false;
  for (Group& group : groups_) {
    if (group.has_programs()) edits |= group.take_edited();
  }
  return edits ? kDoneWithEdits : kDone;
}

bool Plan::set_program(int group, const std::string& name, std::vector<double> table, int unit, at::Tensor shown) {
  groups_.at(group).set_program(name, std::move(table), unit, shown,
                                on_host_ ? unwrap<const int64_t>(clocks_) : nullptr);
  return false;
}

std::vector<std::pair<int, int>> Plan::foreign() const {
  std::vector<std::pair<int, int>> out;
  for (const Entry& e : entries_) {
    if (e.foreign) out.emplace_back(e.group, e.index);
  }
  return out;
}

void Plan::adopt(const std::vector<std::pair<int, int>>& which) {
  size_t next = 0;
  for (Entry& e : entries_) {
    if (next == which.size()) break;
    if (std::pair<int, int>(e.group, e.index) != which[next]) continue;
    ++next;
    PyObject* param = PySequence_Fast_GET_ITEM(groups_[e.group].params(), e.index);
    PyObject* state = PyDict_GetItemWithError(state_.get().ptr(), param);
    if (state != nullptr && !PyDict_Check(state)) throw py::type_error("The state of a parameter must be a dict.");
    if (state != nullptr) read_state(e, state);
    beside_[e.at].fresh = true;
  }
  remember_state();
}

std::vector<std::pair<at::Tensor, int64_t>> Plan::exact_counts() const {
  std::vector<std::pair<at::Tensor, int64_t>> out;
  for (const Entry& e : entries_) {
    const Beside& beside = beside_[e.at];
    if (beside.step > (int64_t{1} << 24) || (!adam_ && beside.fresh)) out.emplace_back(e.param(), beside.step);
  }
  return out;
}

void Plan::adopt_counts(const std::vector<std::pair<at::Tensor, int64_t>>& counts) {
  std::unordered_map<at::TensorImpl*, int64_t> known;
  for (const auto& [param, count] : counts) known[param.unsafeGetTensorImpl()] = count;
  for (Entry& e : entries_) {
    const auto found = known.find(e.param().unsafeGetTensorImpl());
    // The tensor that users see may have been written to; then it wins.
    if (found == known.end()) continue;
    beside_[e.at].fresh = !adam_ && found->second == 0;
    if (!e.shown_step) continue;
    if (!on_host_ || static_cast<float>(found->second) == *e.shown_step) beside_[e.at].step = found->second;
  }
}

}  // namespace fs
