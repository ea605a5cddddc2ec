// SPDX-License-Identifier: Apache-2.0
#include "plan/plan.h"

#include <ATen/MemoryOverlap.h>

#include <algorithm>
#include <unordered_map>

#include "plan/team.h"
#include "plan/work.h"

namespace fs {

namespace {

// Whether a step may be one by which a checkpoint library makes an optimizer create its state, as in
// fusedsched/optim/counting.py. A family's first number is the rate.
bool may_probe(const py::dict& state, const std::vector<Group>& groups) {
  const auto at_rest = [](const Group& group) { return group.values()[0] == 0.0; };
  return state.empty() && std::all_of(groups.begin(), groups.end(), at_rest);
}

}  // namespace

Plan::~Plan() = default;

Plan::Plan(const py::object& spec, py::object optimizer, const py::list& param_groups, const py::dict& state,
           at::Tensor clocks, at::Device device, bool on_host)
    : spec_(spec),
      device_(device),
      on_host_(on_host),
      optimizer_(std::move(optimizer)),
      clocks_(std::move(clocks)),
      work_(std::make_shared<Work>()) {
  state_.watch(state.ptr());
  for (py::handle handle : param_groups) {
    const int32_t g = static_cast<int32_t>(groups_.size());
    groups_.emplace_back(handle.ptr(), g, spec_,
                         on_host ? std::nullopt : std::optional<at::Device>(device));
    group_objects_.push_back(handle.ptr());
    PyObject* params = groups_.back().params();
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(params); ++i) {
      Entry entry;
      entry.array.group = g;
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

void Plan::add(Entry entry, PyObject* object) {
  entry.object = object;
  entry.at = static_cast<int32_t>(entries_.size());
  entry_counts_.emplace_back();
  packed_copies_.emplace_back();
  const at::Tensor& p = entry.param();
  PyObject* state = PyDict_GetItemWithError(state_.ptr(), object);
  entry.unsupported = !is_native(p, device_) || !holds_native_tensors(state);
  if (!entry.unsupported) {
    entry.packed = has_gaps(p);
    TORCH_CHECK(!entry.packed || at::has_internal_overlap(p) != at::MemOverlap::Yes,
                "unsupported operation: more than one element of the written-to tensor refers to a single memory "
                "location. Parameter ", entry.index, " of group ", entry.array.group, " with shape ", p.sizes(),
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

// Of the optimizer; null if there is none.
py::object Plan::live_attribute(const char* name) const {
  const auto optimizer = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(optimizer_.ptr()));  // a weak reference
  PyObject* found = optimizer ? PyObject_GetAttrString(optimizer.ptr(), name) : nullptr;
  if (found == nullptr) PyErr_Clear();
  return py::reinterpret_steal<py::object>(found);
}

// Whether the optimizer still has the groups and the state that the plan was made for. Then what the plan has borrowed
// is alive: for calls that get neither.
bool Plan::is_current() {
  const py::object state = live_attribute("state"), attributes = live_attribute("__dict__");
  if (!attributes || state.ptr() != state_.ptr()) return false;
  PyObject* groups = PyDict_GetItemString(attributes.ptr(), "param_groups");
  return groups != nullptr && PyList_Check(groups) && same_structure(py::reinterpret_borrow<py::list>(groups));
}

bool Plan::same_structure(const py::list& param_groups) {
  if (param_groups.size() != groups_.size()) return false;
  bool other_code = false;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (g >= param_groups.size() || PyList_GET_ITEM(param_groups.ptr(), g) != group_objects_[g]) return false;
    if (!groups_[g].refresh()) return false;
    other_code |= groups_[g].take_other_code();
  }
  return !other_code || same_lists(param_groups);
}

// Whether the groups still have the lists that refresh() has found, where that ran the code of a user's number: it may
// have changed any of them.
bool Plan::same_lists(const py::list& param_groups) {
  if (param_groups.size() != groups_.size()) return false;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (PyList_GET_ITEM(param_groups.ptr(), g) != group_objects_[g] || !groups_[g].has_same_list()) return false;
  }
  return true;
}

Plan::Outcome Plan::check(const py::list& param_groups, const py::dict& state) {
  if (!same_structure(param_groups)) return kRebuild;
  check_horizons();
  if (!same_state(state)) return kRebuild;  // after all that may run other code
  missing_.clear();
  if (!collect(*work_) || (work_->moved && shares_anew())) return kRebuild;
  if (on_host_) work_->moved = false;  // else that is for the tables to say
  return missing_.empty() ? kDone : kStateMissing;
}

bool Plan::pending() const { return !work_->entries.empty(); }

namespace {

// Whether another thread may replace a gradient now. Those of autograd do it without the interpreter lock; each of them,
// and each thread that calls backward(), has a thread state.
bool other_threads() {
  PyThreadState* first = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
  return first != nullptr && PyThreadState_Next(first) != nullptr;
}

}  // namespace

Plan::Outcome Plan::step(const py::list& param_groups, const py::dict& state, const OptionalTensor& scale,
                         const OptionalTensor& found_inf) {
  // Before state is made for it. On a device the kernel finds out.
  if (on_host_ && found_inf && found_inf->item<double>() != 0.0) return skip(param_groups, *found_inf);
  const Release at_end{*work_};
  work_->holds_gradients = scale || found_inf || !on_host_ || other_threads();
  const Outcome outcome = check(param_groups, state);
  if (outcome != kDone) return outcome;
  if (!pending() || may_probe(state, groups_)) return kIdle;
  if (scale || found_inf) hold(*work_);  // reading those may run other code
  return apply(scale, found_inf, false);
}

Plan::Outcome Plan::check_and_hold(const py::list& param_groups, const py::dict& state) {
  Release unless_done{*work_};
  const Outcome outcome = check(param_groups, state);
  if (outcome == kDone) {
    hold(*work_);
    unless_done.wanted = false;
  }
  return outcome;
}

// kRebuild: nothing is held, since another thread has done a step in between.
Plan::Outcome Plan::apply_held(const OptionalTensor& scale, const OptionalTensor& found_inf, bool counts) {
  if (!work_->holds) return kRebuild;
  const Release at_end{*work_};
  return apply(scale, found_inf, counts);
}

void Plan::release() { work_->release(); }

Plan::Turn::Turn(Plan& plan) : plan_(plan) {
  if (forked_from_threads() && !std::exchange(plan.knows_fork_, true)) {  // whoever was in a step is not in this process
    plan.turn_ = plan.next_turn_;
    plan.stepping_ = std::thread::id();
  }
  TORCH_CHECK(!plan.in_step(), "step() was called from inside of a step of the same optimizer.");
  const uint64_t mine = plan.next_turn_++;
  if (mine != plan.turn_) {
    const ReleasedInterpreter released;
    std::unique_lock<std::mutex> lock(plan.turn_mutex_);
    plan.turn_changed_.wait(lock, [&] { return plan.turn_ == mine; });
  }
  plan.stepping_ = std::this_thread::get_id();
}

Plan::Turn::~Turn() {
  plan_.stepping_ = std::thread::id();
  {
    const std::lock_guard<std::mutex> lock(plan_.turn_mutex_);
    ++plan_.turn_;
  }
  plan_.turn_changed_.notify_all();
}

// From here on until the step is done nothing is freed that it has found: other code may run now.
void Plan::hold(Work& work) const {
  if (std::exchange(work.holds, true)) return;
  for (const Entry& entry : entries_) {
    work.hold(entry.object);
    work.hold(entry.state_dict.ptr());
  }
  for (const Entry* entry : work.entries) work.hold_state(*entry);
  hold_gradients(work);
}

void Plan::hold_gradients(Work& work) const {
  if (std::exchange(work.holds_gradients, true)) return;
  for (const Entry* entry : work.entries) {
    work.gradients.push_back(gradient_of(*entry->param().unsafeGetTensorImpl()));
  }
}

void Plan::finish(Work& work) {
  at::NoGradGuard no_grad;
  for (Entry* entry : work.packed) entry->param().copy_(packed_copies_[entry->at]);
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
  if (group < 0 || group >= static_cast<int>(groups_.size())) {
    throw py::value_error("There is no group " + std::to_string(group) + ".");
  }
  groups_[group].set_program(name, std::move(table), unit, shown,
                                on_host_ ? unwrap<const int64_t>(clocks_) : nullptr);
  return false;
}

std::vector<std::pair<int, int>> Plan::unsupported() const {
  std::vector<std::pair<int, int>> out;
  for (const Entry& e : entries_) {
    if (e.unsupported) out.emplace_back(e.array.group, e.index);
  }
  return out;
}

}  // namespace fs
