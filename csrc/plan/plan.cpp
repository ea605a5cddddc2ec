// SPDX-License-Identifier: Apache-2.0
#include "plan/plan.h"

#include <ATen/MemoryOverlap.h>

#include <unordered_map>

#include "plan/work.h"

namespace fs {

namespace {

PyObject* step_key() {
  static PyObject* const key = PyUnicode_InternFromString("step");
  return key;
}

}  // namespace

Plan::~Plan() = default;

Plan::Plan(const py::object& spec, py::list param_groups, py::dict state, at::Tensor clocks, at::Device device,
           bool on_host)
    : spec_(spec),
      device_(device),
      on_host_(on_host),
      param_groups_(std::move(param_groups)),
      clocks_(std::move(clocks)),
      work_(std::make_shared<Work>()) {
  state_.watch(std::move(state));
  for (py::handle handle : param_groups_) {
    const int32_t g = static_cast<int32_t>(groups_.size());
    groups_.emplace_back(py::reinterpret_borrow<py::dict>(handle), spec_,
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
  for (Entry& e : entries_) e.unsupported |= shared[e.at] || listed[e.param().unsafeGetTensorImpl()] > 1;
  record_state_items();
}

void Plan::record_state_items() {
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
  entry_counts_.emplace_back();
  state_objects_.emplace_back();
  const at::Tensor& p = entry.param();
  PyObject* state = PyDict_GetItemWithError(state_.get().ptr(), object);
  entry.unsupported = !is_native(p, device_) || !holds_native_tensors(state);
  if (!entry.unsupported) {
    entry.packed = has_gaps(p);
    TORCH_CHECK(!entry.packed || at::has_internal_overlap(p) != at::MemOverlap::Yes,
                "unsupported operation: more than one element of the written-to tensor refers to a single memory "
                "location. Parameter ", entry.index, " of group ", entry.group, " with shape ", p.sizes(),
                " is expanded; clone() it before it becomes a parameter.");
    const at::Tensor like = entry.packed ? p.new_empty_strided(p.sizes(), dense_strides(p)) : p;
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
  StateObjects& found = state_objects_[entry.at];
  const Spec& spec = spec_of(entry);
  int64_t& updates = entry_counts_[entry.at].updates;
  entry.states = -1;
  entry.kind = nullptr;
  entry.step.reset();
  entry.shown_step = nullptr;
  const int wanted = kRuleInfo[groups_[entry.group].rule()].states;
  for (int k = 0; k < wanted; ++k) {
    PyObject* object = PyDict_GetItemWithError(state, spec.state_keys[k]);
    if (object == nullptr || !is_tensor(object)) return;
    entry.state[k] = tensor_of(object);
    found.state[k] = object;
    TORCH_CHECK(is_native(entry.state[k], device_) && entry.layout->matches(*entry.state[k].unsafeGetTensorImpl()),
                "state['", std::string(py::str(py::handle(spec.state_keys[k]))), "'] of parameter ",
                entry.index, " of group ", entry.group, " has shape ", entry.state[k].sizes(), ", strides ",
                entry.state[k].strides(), " and dtype ", entry.state[k].scalar_type(), " on ",
                entry.state[k].device(), "; the parameter has shape ", entry.param().sizes(), " on ",
                entry.param().device(), ". Load a state that belongs to this model.");
  }
  if (spec.counts_steps) {
    PyObject* object = PyDict_GetItemWithError(state, step_key());
    if (object == nullptr || !is_tensor(object)) return;
    const at::Tensor& step = tensor_of(object);
    TORCH_CHECK(is_count(step), "state['step'] of parameter ", entry.index, " of group ", entry.group,
                " must be a float32 tensor with one element on ", device_, ".");
    found.step = object;
    entry.step = step;
    entry.shown_step = static_cast<float*>(unwrap(step));
    if (on_host_ && static_cast<float>(updates) != *entry.shown_step) updates = static_cast<int64_t>(*entry.shown_step);
  } else {
    updates = wanted > 0;  // adopt() knows if it is new
  }
  entry.states = static_cast<int8_t>(wanted);
}

bool Plan::is_count(const at::Tensor& step) const {
  return is_native(step, device_) && step.scalar_type() == at::kFloat && step.numel() == 1 && is_backed(step);
}

bool Plan::state_unchanged(Entry& entry) {
  if (!entry.state_dict.may_have_changed()) return true;
  PyObject* dict = entry.state_dict.get().ptr();
  const Spec& spec = spec_of(entry);
  const StateObjects& found = state_objects_[entry.at];
  const int wanted = kRuleInfo[groups_[entry.group].rule()].states;
  for (int k = 0; k < wanted; ++k) {
    if (PyDict_GetItemWithError(dict, spec.state_keys[k]) != found.state[k]) return false;
  }
  if (spec.counts_steps && PyDict_GetItemWithError(dict, step_key()) != found.step) return false;
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
  const Spec& spec = spec_of(entry);
  for (int k = 0; k < wanted; ++k) {
    if (!has_tensor(spec.state_keys[k])) return false;
  }
  return !spec.counts_steps || has_tensor(step_key());
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
    if (!entry->packed && !impl->is_inference()) impl->bump_version();
  }
}

void Plan::finish(Work& work) {
  at::NoGradGuard no_grad;
  for (Entry* entry : work.packed) entry->param().copy_(state_objects_[entry->at].packed_copy);
  work.copies.clear();
  work.packed.clear();
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

std::vector<std::pair<int, int>> Plan::unsupported() const {
  std::vector<std::pair<int, int>> out;
  for (const Entry& e : entries_) {
    if (e.unsupported) out.emplace_back(e.group, e.index);
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
    if (!spec_of(e).counts_steps) entry_counts_[e.at].updates = 0;
  }
  record_state_items();
}

// Whether the state itself cannot tell a count.
bool Plan::is_to_be_saved(const Entry& entry, int64_t updates) const {
  return spec_of(entry).counts_steps ? updates > (int64_t{1} << 24) : updates == 0 && entry.states > 0;
}

std::vector<std::pair<at::Tensor, int64_t>> Plan::exact_counts() const {
  std::vector<std::pair<at::Tensor, int64_t>> out;
  for (const Entry& e : entries_) {
    const int64_t updates = entry_counts_[e.at].updates;
    if (is_to_be_saved(e, updates)) out.emplace_back(e.param(), updates);
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
    int64_t& updates = entry_counts_[e.at].updates;
    if (!spec_of(e).counts_steps && found->second == 0) updates = 0;
    if (!e.shown_step) continue;
    if (!on_host_ || static_cast<float>(found->second) == *e.shown_step) updates = found->second;
  }
}

}  // namespace fs
