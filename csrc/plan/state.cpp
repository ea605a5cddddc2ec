// SPDX-License-Identifier: Apache-2.0
// The state of the parameters: where it was found, whether it is still that, and the counts that it cannot tell.
#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "plan/work.h"

namespace fs {

namespace {

PyObject* step_key() {
  static PyObject* const key = PyUnicode_InternFromString("step");
  return key;
}

}  // namespace

void Plan::record_state_items() {
  state_items_.clear();
  PyObject *key, *value;
  Py_ssize_t at = 0;
  while (PyDict_Next(state_.ptr(), &at, &key, &value)) state_items_.emplace_back(key, value);
  state_.looked();
}

// Whether each parameter's state is still the dictionary that it was. Walking the items is far cheaper than looking
// each up: a lookup would call Tensor.__hash__.
bool Plan::same_state(const py::dict& state) {
  if (state.ptr() != state_.ptr()) return false;
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

void Plan::read_state(Entry& entry, PyObject* state) {
  entry.state_dict.watch(state);
  const Spec& spec = spec_of(entry);
  int64_t& updates = entry_counts_[entry.at].updates;
  entry.states = -1;
  entry.kind = nullptr;
  std::fill(std::begin(entry.state), std::end(entry.state), nullptr);
  entry.step = nullptr;
  entry.array.step = nullptr;
  const int wanted = kRuleInfo[groups_[entry.array.group].rule()].states;
  for (int k = 0; k < wanted; ++k) {
    PyObject* object = PyDict_GetItemWithError(state, spec.state_keys[k]);
    if (object == nullptr || !is_tensor(object)) return;
    const at::Tensor& array = tensor_of(object);
    entry.state[k] = object;
    TORCH_CHECK(is_native(array, device_) && entry.layout->matches(*array.unsafeGetTensorImpl()),
                "state['", std::string(py::str(py::handle(spec.state_keys[k]))), "'] of parameter ",
                entry.index, " of group ", entry.array.group, " has shape ", array.sizes(), ", strides ", array.strides(),
                " and dtype ", array.scalar_type(), " on ", array.device(), "; the parameter has shape ",
                entry.param().sizes(), " on ", entry.param().device(), ". Load a state that belongs to this model.");
  }
  if (spec.counts_steps) {
    PyObject* object = PyDict_GetItemWithError(state, step_key());
    if (object == nullptr || !is_tensor(object)) return;
    const at::Tensor& step = tensor_of(object);
    TORCH_CHECK(is_count(step) || !is_backed(step), "state['step'] of parameter ", entry.index, " of group ", entry.array.group,
                " must be a float32 tensor with one element on ", device_, ".");
    entry.step = object;
    if (is_backed(step)) entry.array.step = static_cast<float*>(unwrap(step));  // else inspect() raises, if it is needed
    const float* shown = on_host_ ? entry.array.step : nullptr;
    if (shown != nullptr && static_cast<float>(updates) != *shown) updates = static_cast<int64_t>(*shown);
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
  PyObject* dict = entry.state_dict.ptr();
  const Spec& spec = spec_of(entry);
  const int wanted = kRuleInfo[groups_[entry.array.group].rule()].states;
  if (!PyDict_Check(dict)) return false;
  // Where there was a tensor, any object may lie now.
  const auto same = [dict](PyObject* key, PyObject* before) {
    PyObject* now = PyDict_GetItemWithError(dict, key);
    return now == before && (now == nullptr || is_tensor(now));
  };
  for (int k = 0; k < wanted; ++k) {
    if (!same(spec.state_keys[k], entry.state[k])) return false;
  }
  if (spec.counts_steps && !same(step_key(), entry.step)) return false;
  entry.state_dict.looked();
  return true;
}

// Whether all of a parameter's state is there: a plan that was made under a rule of less state did not read it.
bool Plan::has_state(const Entry& entry, int wanted) const {
  PyObject* dict = PyDict_GetItemWithError(state_.ptr(), entry.object);
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

void Plan::adopt(const std::vector<std::pair<int, int>>& which) {
  if (!is_current()) return;
  size_t next = 0;
  for (Entry& e : entries_) {
    if (next == which.size()) break;
    if (std::pair<int, int>(e.array.group, e.index) != which[next]) continue;
    ++next;
    PyObject* param = PySequence_Fast_GET_ITEM(groups_[e.array.group].params(), e.index);
    PyObject* state = PyDict_GetItemWithError(state_.ptr(), param);
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

// Of the parameters that are alive, which is certain of those that have state.
std::vector<std::pair<at::Tensor, int64_t>> Plan::counts_to_save(const int64_t* counts) const {
  std::vector<std::pair<at::Tensor, int64_t>> out;
  const py::object state = live_attribute("state");
  if (!state || !PyDict_Check(state.ptr())) return out;
  std::unordered_map<PyObject*, const Entry*> by_object;
  for (const Entry& e : entries_) by_object[e.object] = &e;
  PyObject *key, *value;
  Py_ssize_t at = 0;
  while (PyDict_Next(state.ptr(), &at, &key, &value)) {
    const auto found = by_object.find(key);
    if (found == by_object.end()) continue;
    const Entry& e = *found->second;
    const int64_t updates = counts == nullptr ? entry_counts_[e.at].updates : counts[e.at];
    if (is_to_be_saved(e, updates)) out.emplace_back(tensor_of(key), updates);
  }
  return out;
}

std::vector<std::pair<at::Tensor, int64_t>> Plan::exact_counts() const { return counts_to_save(nullptr); }

void Plan::adopt_counts(const std::vector<std::pair<at::Tensor, int64_t>>& counts) {
  std::unordered_map<at::TensorImpl*, int64_t> known;
  for (const auto& [param, count] : counts) known[param.unsafeGetTensorImpl()] = count;
  for (Entry& e : entries_) {
    const auto found = known.find(e.param().unsafeGetTensorImpl());
    // The tensor that users see may have been written to; then it wins.
    if (found == known.end()) continue;
    int64_t& updates = entry_counts_[e.at].updates;
    if (!spec_of(e).counts_steps && found->second == 0) updates = 0;
    if (!e.array.step) continue;
    if (!on_host_ || static_cast<float>(found->second) == *e.array.step) updates = found->second;
  }
}

}  // namespace fs
