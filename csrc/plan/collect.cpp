// SPDX-License-Identifier: Apache-2.0
// The first pass of a step: reads every pointer and checks everything, changes nothing.
#include <sstream>

#include "plan/work.h"

namespace fs {

namespace {

std::string where(const Entry& entry) {
  std::ostringstream out;
  out << "parameter " << entry.index << " of group " << entry.array.group << " (shape " << entry.param().sizes() << ", "
      << entry.param().scalar_type() << " on " << entry.param().device() << ")";
  return out.str();
}

std::string state_name(int k, const Spec& spec) {
  return "state['" + std::string(py::str(py::handle(spec.state_keys[k]))) + "'] of ";
}

// Raises for memory that was freed: that of an offloaded state, say, which was not brought back.
void check_backed(const at::Tensor& tensor, const std::string& what, const Entry& entry) {
  TORCH_CHECK(is_backed(tensor), "The memory of ", what, where(entry), " is gone: its storage has ",
              tensor.storage().nbytes(), " bytes. It was freed or made smaller by untyped_storage().resize_(). Bring it "
              "back before step(). Nothing was changed.");
}

int variant_of(const Array& array, int states) {
  bool same = true, wide = false;
  for (int role = kGrad; role < kState0 + states; ++role) {
    same &= array.dtype[role] == array.dtype[kParam];
    wide |= array.dtype[role] == DType::kFloat64;
  }
  if (same) return static_cast<int>(array.dtype[kParam]);
  return wide ? kMixedFloat64 : kMixedFloat32;
}

// Writes only what differs, and says whether it did.
template <class T, class U>
bool set(T& place, U value) {
  if (place == value) return false;
  place = value;
  return true;
}

// Reads the address of a tensor that has the fingerprint. False: its memory is gone.
[[gnu::always_inline]] inline bool read_address(void*& address, bool& moved, const at::TensorImpl& impl,
                                                const TensorFingerprint& known, int64_t numel) {
  const int64_t end = (TensorFields::of(impl).offset() + numel) * known.itemsize;
  if (C10_UNLIKELY(static_cast<int64_t>(impl.unsafe_storage().nbytes()) < end)) return false;
  void* const now = unwrap_native(impl, known.itemsize);
  if (C10_LIKELY(now == address)) return true;
  if (now == nullptr && numel != 0) return false;
  address = now;
  moved = true;
  return true;
}

// Whether everything is as inspect() found it last; then reads the addresses, which may be others. moved: gets whether
// another array than the gradient has moved. Gradients may, at each step.
bool unchanged(Entry& entry, const at::TensorImpl& param, const at::TensorImpl& grad, int states, bool& moved) {
  const EntryKind& kind = *entry.kind;
  const Layout& layout = *entry.layout;
  void** const data = entry.array.data;
  bool gradient_moved = false;
  if (!kind.param.matches(param) || !layout.matches(param)) return false;
  if (!kind.grad.matches(grad) || !layout.matches(grad)) return false;
  if (!read_address(data[kParam], moved, param, kind.param, layout.numel)) return false;
  if (!read_address(data[kGrad], gradient_moved, grad, kind.grad, layout.numel)) return false;
  for (int k = 0; k < states; ++k) {
    const at::TensorImpl& state = entry.state_impl(k);
    if (!kind.state[k].matches(state) || !layout.same_order(state)) return false;
    if (!read_address(data[kState0 + k], moved, state, kind.state[k], layout.numel)) return false;
  }
  if (entry.array.step == nullptr) return true;
  const at::TensorImpl& step = entry.step_impl();
  void* now = entry.array.step;
  bool step_moved = false;
  return kind.step.matches(step) && read_address(now, step_moved, step, kind.step, 1) && !step_moved;
}

// The same after inspect(). A packed parameter is where its copy lies.
bool read_addresses(Entry& entry, const at::TensorImpl& param, const at::TensorImpl& grad, int states) {
  set(entry.array.data[kGrad], unwrap(grad));
  bool moved = !entry.packed && set(entry.array.data[kParam], unwrap(param));
  for (int k = 0; k < states; ++k) moved |= set(entry.array.data[kState0 + k], unwrap(entry.state_impl(k)));
  return moved;
}

// Whether it still has the layout that its state was given; one with gaps, its packed copy.
bool is_laid_out(const Entry& entry) {
  const at::Tensor& p = entry.param();
  if (entry.packed != has_gaps(p)) return false;
  if (!entry.packed) return entry.layout->matches(*p.unsafeGetTensorImpl());
  return entry.layout->is(p.sizes(), dense_strides(p));
}

template <class T>
void prefetch(const T* object) {
  for (size_t at = 0; at < sizeof(T); at += fs_cpu::kLine) __builtin_prefetch(reinterpret_cast<const char*>(object) + at);
}

void prefetch_storage(const at::TensorImpl& tensor) {
  prefetch(tensor.unsafe_storage().unsafeGetStorageImpl());
}

bool has_live_state(const Entry& entry) { return entry.states > 0 && !entry.state_dict.may_have_changed(); }

// What collect() reads of an entry hangs on chains of pointers. Entries further on are followed along them, each a link
// less far, so that the waits for memory overlap. Only objects that are alive are followed: the groups were compared, and
// state lives as long as its dictionary has not changed.
void prefetch_ahead(const std::vector<Entry>& entries, size_t i) {
  constexpr size_t step = 3;  // entries from link to link
  const size_t left = entries.size() - i;
  if (left > 4 * step) {
    const Entry& entry = entries[i + 4 * step];
    __builtin_prefetch(entry.object);
    __builtin_prefetch(entry.state_dict.ptr());
  }
  if (left > 3 * step) {
    const Entry& entry = entries[i + 3 * step];
    prefetch(entry.param().unsafeGetTensorImpl());
    for (int k = 0; k < entry.states; ++k) __builtin_prefetch(&tensor_of(entry.state[k]));
    if (entry.step != nullptr) __builtin_prefetch(&tensor_of(entry.step));
  }
  if (left > 2 * step) {
    const Entry& entry = entries[i + 2 * step];
    const at::TensorImpl& param = *entry.param().unsafeGetTensorImpl();
    prefetch_storage(param);
    if (param.autograd_meta() != nullptr) __builtin_prefetch(&gradient_of(param));
    if (has_live_state(entry)) {
      for (int k = 0; k < entry.states; ++k) prefetch(&entry.state_impl(k));
      if (entry.step != nullptr) prefetch(&entry.step_impl());
    }
  }
  if (left > step) {
    const Entry& entry = entries[i + step];
    const at::Tensor& grad = gradient_of(*entry.param().unsafeGetTensorImpl());
    if (grad.defined()) prefetch(grad.unsafeGetTensorImpl());
    if (has_live_state(entry)) {
      for (int k = 0; k < entry.states; ++k) prefetch_storage(entry.state_impl(k));
      if (entry.step != nullptr) prefetch_storage(entry.step_impl());
    }
  }
}

}  // namespace

void Plan::inspect_gradient(Entry& entry, const at::Tensor& grad, Work& work) {
  TORCH_CHECK(grad.layout() == at::kStrided,
              spec_of(entry).sparse_error, " The gradient of ", where(entry),
              " is sparse; use sparse=False in the embedding, or to_dense().");
  TORCH_CHECK(grad.device() == entry.param().device(), "The gradient of ", where(entry), " is on ", grad.device(),
              ". Move it to the device of its parameter.");
  TORCH_CHECK(grad.sizes() == entry.param().sizes(), "The gradient of ", where(entry), " has shape ", grad.sizes(),
              ". It must have the shape of its parameter.");
  if (is_native(*grad.unsafeGetTensorImpl())) check_backed(grad, "the gradient of ", entry);
  const auto dtype = dtype_of(grad.scalar_type());
  TORCH_CHECK(dtype && grad.is_complex() == entry.param().is_complex(), "The gradient of ", where(entry),
              " is of dtype ", grad.scalar_type(), ". Cast it to the dtype of its parameter.");
  entry.array.dtype[kGrad] = *dtype;
  const at::TensorImpl& impl = *grad.unsafeGetTensorImpl();
  if (is_native(impl) && entry.layout->matches(impl) && !grad.is_conj() && !grad.is_neg()) return;
  // Strided otherwise than its parameter, walked side by side they would pair the wrong elements. One that is not native
  // is read by its own copy_, which may wait, and raises where it does not mix with plain tensors.
  at::NoGradGuard no_grad;
  at::Tensor copy = entry.param().new_empty_strided(entry.layout->sizes, entry.layout->strides, grad.options());
  copy.copy_(grad);
  work.copies.emplace_back(grad, std::move(copy));
}

// Copies a parameter with gaps to where it is updated.
void Plan::pack(Entry& entry, Work& work) {
  at::NoGradGuard no_grad;
  at::Tensor& copy = packed_copies_[entry.at];  // kept, since a captured graph goes on writing to it
  if (!copy.defined()) copy = entry.param().new_empty_strided(entry.layout->sizes, entry.layout->strides);
  copy.copy_(entry.param());
  entry.array.data[kParam] = unwrap(copy);
  work.packed.push_back(&entry);
}

// Checks everything and records what unchanged() compares with. False: the plan is out of date.
bool Plan::inspect(Entry& entry, const at::Tensor& grad, Rule rule, Work& work) {
  const EntryKind* before = std::exchange(entry.kind, nullptr);
  EntryKind kind;
  const int states = kRuleInfo[rule].states;
  hold(work);  // copies may run other code: their class's, or a mode's
  const at::TensorImpl& param = *entry.param().unsafeGetTensorImpl();
  const auto dtype = dtype_of(entry.param().scalar_type());
  if (!is_native(entry.param(), device_) || !is_laid_out(entry)) return false;
  check_backed(entry.param(), "", entry);
  const size_t copies = work.copies.size();
  inspect_gradient(entry, grad, work);
  if (entry.packed) pack(entry, work);
  if (entry.states >= 0 && !state_unchanged(entry)) return false;
  if (states > 0 && entry.states < states) {
    if (has_state(entry, states)) return false;
    missing_.emplace_back(entry.array.group, entry.index);
    return true;
  }
  Array& array = entry.array;
  array.dtype[kParam] = *dtype;
  const uint8_t rule_before = std::exchange(entry.rule, rule);
  array.numel = entry.layout->numel * (entry.param().is_complex() ? 2 : 1);
  for (int k = 0; k < states; ++k) {
    const at::Tensor& state = tensor_of(entry.state[k]);
    const auto state_dtype = dtype_of(state.scalar_type());
    if (!state_dtype || !is_native(state, device_)) return false;
    if (!entry.layout->same_order(*state.unsafeGetTensorImpl())) return false;
    check_backed(state, state_name(k, spec_of(entry)), entry);
    array.dtype[kState0 + k] = *state_dtype;
    kind.state[k].record(*state.unsafeGetTensorImpl());
  }
  if (entry.step != nullptr) {
    check_backed(tensor_of(entry.step), "state['step'] of ", entry);
    if (!is_count(tensor_of(entry.step))) return false;
    kind.step.record(entry.step_impl());
    work.moved |= set(array.step, static_cast<float*>(unwrap(entry.step_impl())));
  }
  kind.param.record(param);
  const at::Tensor& gradient = work.copies.size() > copies ? work.copies.back().second : grad;
  kind.grad.record(*gradient.unsafeGetTensorImpl());  // of what is native
  kind.variant = variant_of(array, states);
  kind.kernel = on_host_ ? fs_cpu::kernels().kernel[rule][kind.variant] : nullptr;
  entry.kind = interned(kinds_, kind);
  work.moved |= entry.kind != before || rule != rule_before;
  const bool copied = work.copies.size() > copies;
  work.moved |= read_addresses(entry, param, *gradient.unsafeGetTensorImpl(), states);
  entry.by_copy = copied || entry.packed;
  return true;
}

// Whether the last step had to drive what it reads here out of the second-level cache: the arrays that it walked over,
// where this processor walks, and the objects around the tensors.
bool Plan::forgotten(const Work& work) const {
  constexpr int64_t cache = 1 << 20, around = 1536;  // bytes; of one entry
  const int64_t walked = on_host_ && !work.unit_ends.empty() ? work.unit_ends.back() * kUnit * 16 : 0;
  return walked + static_cast<int64_t>(work.entries.size()) * around > cache;
}

bool Plan::collect(Work& work) {
  work.cold = forgotten(work);
  work.clear();
  work.reserve(entries_.size());
  int64_t units = 0;
  int32_t last_group = -1;
  Rule rule{};
  int states = 0;
  const size_t n = entries_.size();
  for (size_t i = 0; i < n; ++i) {
    Entry& entry = entries_[i];
    if (work.cold) prefetch_ahead(entries_, i);
    if (entry.unsupported) continue;
    const at::TensorImpl& param = *entry.param().unsafeGetTensorImpl();
    const at::Tensor* grad = &gradient_of(param);
    if (!grad->defined()) continue;
    if (work.holds_gradients) grad = &work.gradients.emplace_back(*grad);
    if (C10_UNLIKELY(!grad->defined())) {  // another thread has just reset it
      work.gradients.pop_back();
      continue;
    }
    if (entry.array.group != last_group) {
      last_group = entry.array.group;
      rule = groups_[last_group].rule();
      states = kRuleInfo[rule].states;
    }
    const bool known = entry.kind != nullptr && !entry.by_copy && entry.rule == rule &&
                       (states == 0 || !entry.state_dict.may_have_changed() || state_unchanged(entry)) &&
                       unchanged(entry, param, *grad->unsafeGetTensorImpl(), states, work.moved);
    if (C10_UNLIKELY(!known)) {
      if (!work.holds_gradients) {
        hold_gradients(work);
        grad = &work.gradients.emplace_back(*grad);
      }
      if (!inspect(entry, *grad, rule, work)) return false;
      if (entry.kind == nullptr) continue;  // its state is missing
    }
    units += (entry.array.numel + kUnit - 1) / kUnit;
    work.elements += entry.array.numel;
    work.unit_ends.push_back(units);
    work.entries.push_back(&entry);
    if (work.holds) work.hold_state(entry);
  }
  return true;
}

}  // namespace fs
