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

int variant_of(const Array& array, int states) {
  bool same = true, wide = false;
  for (int role = kGrad; role < kState0 + states; ++role) {
    same &= array.dtype[role] == array.dtype[kParam];
    wide |= array.dtype[role] == DType::kFloat64;
  }
  if (same) return static_cast<int>(array.dtype[kParam]);
  return wide ? kMixedFloat64 : kMixedFloat32;
}

// Whether everything is as inspect() found it last; then only addresses have to be read.
bool unchanged(const Entry& entry, const at::TensorImpl& param, const at::TensorImpl& grad, int states) {
  const EntryKind& kind = *entry.kind;
  if (!kind.param.matches(param) || !entry.layout->matches(param)) return false;
  if (!kind.grad.matches(grad) || !entry.layout->matches(grad)) return false;
  for (int k = 0; k < states; ++k) {
    const at::TensorImpl& state = entry.state_impl(k);
    if (!kind.state[k].matches(state) || !entry.layout->same_order(state)) return false;
  }
  if (entry.array.step == nullptr) return true;
  const at::TensorImpl& step = entry.step_impl();
  return kind.step.matches(step) && unwrap_native(step) == entry.array.step;
}

// Writes only what differs, and says whether it did.
template <class T, class U>
bool set(T& place, U value) {
  if (place == value) return false;
  place = value;
  return true;
}

// Whether another array than the gradient has moved: gradients may, at each step. All are native: inspect() or
// unchanged() has found that.
bool read_addresses(Entry& entry, const at::TensorImpl& param, const at::TensorImpl& grad, int states) {
  set(entry.array.data[kGrad], unwrap_native(grad));
  bool moved = !entry.packed && set(entry.array.data[kParam], unwrap_native(param));
  for (int k = 0; k < states; ++k) {
    moved |= set(entry.array.data[kState0 + k], unwrap_native(entry.state_impl(k)));
  }
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

// What collect() reads of an entry hangs on a chain of pointers. Entries further on are followed along it, each a link
// less far, so that the waits for memory overlap.
void prefetch_ahead(const std::vector<Entry>& entries, size_t i) {
  constexpr size_t step = 3;  // entries from link to link
  const size_t left = entries.size() - i;
  if (left > 4 * step) {
    const Entry& entry = entries[i + 4 * step];
    __builtin_prefetch(entry.object);
    for (int k = 0; k < entry.states; ++k) prefetch(&entry.state_impl(k));
    if (entry.array.step != nullptr) prefetch(&entry.step_impl());
  }
  if (left > 3 * step) {
    const Entry& entry = entries[i + 3 * step];
    prefetch(entry.param().unsafeGetTensorImpl());
    for (int k = 0; k < entry.states; ++k) prefetch_storage(entry.state_impl(k));
  }
  if (left > 2 * step) {
    const at::TensorImpl& param = *entries[i + 2 * step].param().unsafeGetTensorImpl();
    prefetch_storage(param);
    if (param.autograd_meta() != nullptr) __builtin_prefetch(&gradient_of(param));
  }
  if (left > step) {
    const at::Tensor& grad = gradient_of(*entries[i + step].param().unsafeGetTensorImpl());
    if (grad.defined()) prefetch(grad.unsafeGetTensorImpl());
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
  work.copies.emplace_back(&entry, std::move(copy));
}

// Checks everything and records what unchanged() compares with. False: the plan is out of date.
bool Plan::inspect(Entry& entry, const at::Tensor& grad, Rule rule, Work& work) {
  const EntryKind* before = std::exchange(entry.kind, nullptr);
  EntryKind kind;
  const int states = kRuleInfo[rule].states;
  hold(work);
  const at::TensorImpl& param = *entry.param().unsafeGetTensorImpl();
  const auto dtype = dtype_of(entry.param().scalar_type());
  if (!is_native(entry.param(), device_) || !is_laid_out(entry)) return false;
  const size_t copies = work.copies.size();
  inspect_gradient(entry, grad, work);
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
    const at::Tensor& state = tensor_of(state_objects_[entry.at].state[k]);
    const auto state_dtype = dtype_of(state.scalar_type());
    if (!state_dtype || !is_native(state, device_)) return false;
    if (!entry.layout->same_order(*state.unsafeGetTensorImpl())) return false;
    array.dtype[kState0 + k] = *state_dtype;
    kind.state[k].record(*state.unsafeGetTensorImpl());
  }
  if (entry.array.step != nullptr) {
    if (!is_count(tensor_of(state_objects_[entry.at].step))) return false;
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
  if (entry.packed) {
    at::NoGradGuard no_grad;
    at::Tensor& copy = packed_copies_[entry.at];  // kept, since a captured graph goes on writing to it
    if (!copy.defined()) {
      copy = entry.param().new_empty_strided(entry.layout->sizes, entry.layout->strides);
    }
    copy.copy_(entry.param());
    array.data[kParam] = unwrap(copy);
    work.packed.push_back(&entry);
  }
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
  int64_t units = 0;
  int32_t last_group = -1;
  Rule rule{};
  int states = 0;
  for (size_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    if (work.cold) prefetch_ahead(entries_, i);
    if (entry.unsupported) continue;
    const at::TensorImpl& param = *entry.param().unsafeGetTensorImpl();
    const at::Tensor& grad = gradient_of(param);
    if (!grad.defined()) continue;
    const at::TensorImpl& grad_impl = *grad.unsafeGetTensorImpl();
    if (entry.array.group != last_group) {
      last_group = entry.array.group;
      rule = groups_[last_group].rule();
      states = kRuleInfo[rule].states;
    }
    if (entry.kind != nullptr && !entry.by_copy && entry.rule == rule &&
        (states == 0 || state_unchanged(entry)) && unchanged(entry, param, grad_impl, states)) {
      work.moved |= read_addresses(entry, param, grad_impl, states);
    } else {
      if (!inspect(entry, grad, rule, work)) return false;
      if (entry.kind == nullptr) continue;  // its state is missing
    }
    units += (entry.array.numel + kUnit - 1) / kUnit;
    work.elements += entry.array.numel;
    work.unit_ends.push_back(units);
    work.entries.push_back(&entry);
    if (work.holds) work.hold_arrays(entry, state_objects_[entry.at]);
  }
  return true;
}

}  // namespace fs
