// SPDX-License-Identifier: Apache-2.0
// The plan: every parameter of every group, where its arrays lie and what was last known of them. Built once, checked
// at each step by reading pointers, rebuilt when something moved. One call does a whole optimizer step for the
// parameters of one device; CpuPlan (cpu_plan.h) and CudaPlan (cuda_plan.h) say how.
#pragma once

#include <c10/util/SmallVector.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/rules.h"
#include "cpu/kernels.h"
#include "plan/group.h"
#include "plan/spec.h"
#include "plan/tensors.h"

namespace fs {

// Where the elements of a tensor lie: what has to match for two arrays to be walked side by side.
struct Layout {
  c10::SmallVector<int64_t, 4> sizes, strides;  // inside the entry: one memory access less for each comparison
  int64_t numel = 0;
  bool contiguous = false;
  [[gnu::always_inline]] bool matches(const at::TensorImpl& impl) const {
    const TensorFields& fields = TensorFields::of(impl);
    if (contiguous && fields.is_row_major()) return same(fields.shape(), sizes);
    return is(impl.sizes(), impl.strides());
  }
  // For a tensor whose shape was compared before.
  [[gnu::always_inline]] bool same_order(const at::TensorImpl& impl) const {
    const TensorFields& fields = TensorFields::of(impl);
    return contiguous ? fields.is_row_major() && fields.elements() == numel : matches(impl);
  }
  bool is(at::IntArrayRef its_sizes, at::IntArrayRef its_strides) const {
    return same(its_sizes, sizes) && same(its_strides, strides);
  }
  bool operator==(const Layout& other) const { return sizes == other.sizes && strides == other.strides; }

 private:
  [[gnu::always_inline]] static bool same(at::IntArrayRef a, const c10::SmallVector<int64_t, 4>& b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < b.size(); ++i) {
      if (a[i] != b[i]) return false;
    }
    return true;
  }
};

// What was true of a tensor when it was last checked in full. Its key set says device, layout, conjugation and
// whether Python intercepts it; so few comparisons tell that the same kernel may read it again.
struct TensorFingerprint {
  c10::DispatchKeySet keys;
  caffe2::TypeMeta type;
  int32_t itemsize = 0;
  void record(const at::TensorImpl& impl) {
    keys = impl.key_set();
    type = impl.dtype();
    itemsize = static_cast<int32_t>(type.itemsize());
  }
  bool matches(const at::TensorImpl& impl) const { return impl.key_set() == keys && impl.dtype() == type; }
  bool operator==(const TensorFingerprint& other) const { return keys == other.keys && type == other.type; }
};

// What parameters that are stored alike have in common. Shared, since a thousand small tensors that each carry a copy
// no longer fit into the cache.
struct EntryKind {
  TensorFingerprint param, grad, state[kMaxStates], step;
  int variant = -1;
  fs_cpu::Kernel kernel = nullptr;
  bool operator==(const EntryKind& other) const {
    return param == other.param && grad == other.grad && state[0] == other.state[0] && state[1] == other.state[1] &&
           state[2] == other.state[2] && step == other.step && variant == other.variant && kernel == other.kernel;
  }
};

// A parameter: what was last found of it. These are numbers: no reference is held, so that what a user replaces is freed
// at once. A step compares the objects in the live groups and states with those that were found, and reads their layouts
// and addresses anew. Another object at the address of a dead one is read like the first.
// Read at every step, and in the steady state only read: thousands of them pass through the cache each time, and lines
// that were written would have to travel back. What changes or is rarely needed is apart.
struct Entry {
  // Python's objects, borrowed. Not their tensors: torch.utils.swap_tensors, with which Module.to() moves FSDP models,
  // refuses one that anything else refers to, weakly too, and puts another one into the same object.
  PyObject* object = nullptr;
  const EntryKind* kind = nullptr;  // null: nothing is known, check everything
  const Layout* layout = nullptr;   // of the state, and of a parameter without gaps
  PyObject* state[kMaxStates] = {};  // as last read from state_dict
  PyObject* step = nullptr;        // the count as users see it; none if the family counts no steps
  WatchedDict state_dict;
  int32_t scalars = 0;             // which set of prepared scalars
  int32_t index = 0;               // within its group
  int32_t at = 0;                  // among all
  uint8_t rule = 0;                // of the last step
  int8_t states = -1;              // how many of the state tensors are known; -1: none, not even the step
  bool unsupported = false;        // not for these kernels: another plan or the reference takes it
  bool packed = false;             // has gaps or a lazy conjugate: updated in a packed copy
  bool by_copy = false;            // it, or its last gradient, went through a copy: check everything again
  Array array{};                   // as the kernel gets it

  // Of objects that this step has found in a live group, or in a live state.
  const at::Tensor& param() const { return tensor_of(object); }
  const at::TensorImpl& state_impl(int k) const { return *tensor_of(state[k]).unsafeGetTensorImpl(); }
  const at::TensorImpl& step_impl() const { return *tensor_of(step).unsafeGetTensorImpl(); }
};

// How often a parameter was updated: exact, beyond 2**24 too. Of a family that counts no steps, 0 while its state is
// new and 1 from its first update on.
struct Count {
  int64_t updates = 0;
};

// The one equal to `value` in `known`, which gets it if there is none.
template <class T>
const T* interned(std::deque<T>& known, const T& value) {
  for (auto it = known.rbegin(); it != known.rend(); ++it) {
    if (*it == value) return &*it;
  }
  return &known.emplace_back(value);
}

using OptionalTensor = std::optional<at::Tensor>;

class Plan {
 public:
  // spec: an OptimizerSpec. device: the one whose parameters it serves. on_host: whether this side may read and write
  // what lies there.
  // optimizer: a weak reference to the one whose groups and state these are.
  Plan(const py::object& spec, py::object optimizer, const py::list& param_groups, const py::dict& state,
       at::Tensor clocks, at::Device device, bool on_host);
  virtual ~Plan();
  at::Device device() const { return device_; }
  virtual std::string name() const = 0;

  // kIdle, of a step: nothing here has a gradient, and apply() is to be called by who knows whether that counts.
  enum Outcome { kDone, kRebuild, kStateMissing, kDoneWithEdits, kIdle };

  // Reads and checks everything; changes nothing. kDone means: ready to apply.
  virtual Outcome check(const py::list& param_groups, const py::dict& state);
  // The same where other code runs before apply_held(): what was found is kept alive until then.
  Outcome check_and_hold(const py::list& param_groups, const py::dict& state);
  // Whether the last check found something to update.
  bool pending() const;
  // Does what check found. scale: the gradients are divided by it. found_inf: if not zero, nothing happens but that the
  // step is counted as skipped. counts: this is an update even if there is nothing to do here: another plan or another
  // process updated something.
  virtual Outcome apply(const OptionalTensor& scale, const OptionalTensor& found_inf, bool counts) = 0;
  Outcome apply_held(const OptionalTensor& scale, const OptionalTensor& found_inf, bool counts);
  Outcome step(const py::list& param_groups, const py::dict& state, const OptionalTensor& scale,
               const OptionalTensor& found_inf);
  // Counts a step as skipped, since found_inf says so; nothing else happens. kRebuild: not even that.
  virtual Outcome skip(const py::list& param_groups, const at::Tensor& found_inf) = 0;
  // Telemetry: each further update is a row of this ring (core/telemetry.h) on the plan's device; none: no more.
  virtual void record_to(const OptionalTensor& ring);
  bool zero_grad(const py::list& param_groups, bool set_to_none);

  // Groups and indices of parameters that have a gradient but no state; of those that another backend takes.
  std::vector<std::pair<int, int>> missing() const { return missing_; }
  std::vector<std::pair<int, int>> unsupported() const;
  // Takes in state that was made for these since.
  void adopt(const std::vector<std::pair<int, int>>& which);
  // Counts that the state cannot tell, to be carried to the next plan and into checkpoints: those that float32 cannot
  // hold, and the zero of a momentum buffer that is still to be filled.
  virtual std::vector<std::pair<at::Tensor, int64_t>> exact_counts() const;
  void adopt_counts(const std::vector<std::pair<at::Tensor, int64_t>>& counts);

  // Puts a program into a slot of a group, in place of what was there; `shown` stands in the group and shows its value.
  // True: the group needs another rule now, which a captured graph cannot get; nothing was put anywhere then that it
  // reads, and the plan is out of date.
  virtual bool set_program(int group, const std::string& name, std::vector<double> table, int unit, at::Tensor shown);
  // Moves a clock on and shows the values of the programs at the present clocks. The second: by what a tensor on the
  // device holds when the device comes to it; a negative number moves nothing, and check_counts throws later.
  virtual void advance(int unit, int64_t amount) = 0;
  virtual void advance_by(int unit, const at::Tensor& amount) { advance(unit, amount.item<int64_t>()); }
  virtual void check_counts() {}

  // Lets go of what check_and_hold() found, where apply_held() is not going to be called.
  void release();

  // Makes the calling thread the only one in a step: others wait, in the order in which they came, without the
  // interpreter lock. (A mutex would let a thread that steps in a loop pass all others.)
  class Turn {
   public:
    explicit Turn(Plan& plan);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Plan& plan_;
  };

  // Whether this thread has the turn.
  bool in_step() const { return stepping_ == std::this_thread::get_id(); }

  // Shows Python's garbage collector each reference held here, once: a model may hold its optimizer. Nothing is let go
  // on its behalf, since such a circle leads through the optimizer's dictionary, which it can clear.
  int traverse(visitproc visit, void* arg) const {
    Py_VISIT(optimizer_.ptr());
    for (const Group& group : groups_) {
      if (const int stop = group.traverse(visit, arg)) return stop;
    }
    return 0;
  }

 protected:
  struct Work;  // what one step updates
  struct Release;

  void add(Entry entry, PyObject* param);
  void read_state(Entry& entry, PyObject* state);
  bool state_unchanged(Entry& entry);
  bool has_state(const Entry& entry, int wanted) const;
  bool same_structure(const py::list& param_groups);
  bool same_lists(const py::list& param_groups);
  py::object live_attribute(const char* name) const;
  bool is_current();
  bool same_state(const py::dict& state);
  void record_state_items();
  virtual void check_horizons() = 0;
  bool collect(Work& work);
  bool is_count(const at::Tensor& step) const;
  bool is_to_be_saved(const Entry& entry, int64_t updates) const;
  std::vector<std::pair<at::Tensor, int64_t>> counts_to_save(const int64_t* counts) const;
  std::vector<bool> sharing() const;
  bool shares_anew() const;
  bool forgotten(const Work& work) const;
  bool inspect(Entry& entry, const at::Tensor& grad, Rule rule, Work& work);
  void inspect_gradient(Entry& entry, const at::Tensor& grad, Work& work);
  void pack(Entry& entry, Work& work);
  void check_writable(const Work& work) const;
  void hold(Work& work) const;
  void hold_gradients(Work& work) const;
  // Autograd has to know that what it saved of the parameter is no longer true.
  static void bump_version(const Entry& entry) {
    at::TensorImpl* impl = entry.param().unsafeGetTensorImpl();
    if (!entry.packed && !impl->is_inference()) impl->bump_version();
  }
  void finish(Work& work);
  Outcome outcome();
  const Spec& spec_of(const Entry& entry) const { return groups_[entry.array.group].spec(); }

  const Spec spec_;
  at::Device device_;
  bool on_host_;
  py::object optimizer_;
  WatchedDict state_;
  std::vector<std::pair<PyObject*, PyObject*>> state_items_;  // as last seen, to be compared and nothing else
  std::vector<PyObject*> group_objects_;
  std::vector<Group> groups_;
  std::vector<Entry> entries_;
  std::vector<Count> entry_counts_;  // of each entry
  std::vector<at::Tensor> packed_copies_;  // what parameters with gaps are updated in
  std::deque<EntryKind> kinds_;      // deques: what points into them stays valid
  std::deque<Layout> layouts_;
  at::Tensor clocks_;  // kClocks numbers
  at::Tensor ring_;    // telemetry; undefined: off
  std::vector<std::pair<int, int>> missing_;
  std::shared_ptr<Work> work_;
  // Read and written under the interpreter lock; `turn_` under its mutex, too, for those that wait without it.
  std::thread::id stepping_;  // the thread in a step
  uint64_t next_turn_ = 0, turn_ = 0;
  bool knows_fork_ = false;
  std::mutex turn_mutex_;
  std::condition_variable turn_changed_;
};

}  // namespace fs
