// SPDX-License-Identifier: Apache-2.0
// What the plans ask of a torch tensor.
#pragma once

#include <c10/core/impl/COWDeleter.h>

#include <bit>
#include <optional>
#include <type_traits>

#include "plan/bridge.h"
#include "core/dtype.h"

namespace fs {

// The kernels' dtype, complex numbers being pairs of real ones.
inline std::optional<DType> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat: case at::kComplexFloat: return DType::kFloat32;
    case at::kDouble: case at::kComplexDouble: return DType::kFloat64;
    case at::kBFloat16: return DType::kBFloat16;
    case at::kHalf: case at::kComplexHalf: return DType::kFloat16;
    default: return std::nullopt;
  }
}

// Whether the elements lie in memory that a kernel can address. Beside the key of a dense CPU or CUDA tensor, native ones
// have at most the keys of autograd, autocast, conjugation and negation. Any other key means that the values are elsewhere:
// wrapper subclasses, fake, functional, vmapped, nested and sparse tensors, lazy zeros.
inline bool is_native(const at::TensorImpl& impl) {
  constexpr auto keys = std::bit_cast<uint64_t>(
      c10::DispatchKeySet(c10::DispatchKey::CPU) | c10::DispatchKeySet(c10::DispatchKey::CUDA) |
      c10::DispatchKeySet(c10::DispatchKey::AutogradFunctionality) |
      c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView) | c10::DispatchKeySet(c10::DispatchKey::AutocastCPU) |
      c10::DispatchKeySet(c10::DispatchKey::AutocastCUDA) | c10::DispatchKeySet(c10::DispatchKey::Conjugate) |
      c10::DispatchKeySet(c10::DispatchKey::Negative));
  return (impl.key_set().raw_repr() & ~keys) == 0;
}

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse_address(const at::TensorImpl& impl) {
  TORCH_CHECK_TYPE(false, "A kernel needs the address of a tensor that has none: its dispatch keys are ",
                   c10::toString(impl.key_set()), ".");
}

// The fields of a tensor, for the steady step, which compares thousands of them. Each of TensorImpl's own accessors asks
// first whether a class answers in the tensor's stead. No native tensor has such a class; is_plain() asks for all. The
// fields are protected, and some are bits, to which no pointer to a member leads: hence a class of the same layout.
struct TensorFields : c10::TensorImpl {
  static const TensorFields& of(const c10::TensorImpl& impl) { return static_cast<const TensorFields&>(impl); }
  bool is_plain() const { return sizes_strides_policy_ == 0 && !has_symbolic_sizes_strides_; }
  bool is_row_major() const { return is_contiguous_ && is_plain(); }
  at::IntArrayRef shape() const { return sizes_and_strides_.sizes_arrayref(); }
  int64_t elements() const { return numel_; }
  int64_t offset() const { return storage_offset_; }
};

// The address of the first element of a tensor that is_native: the only place where one is taken. For the steady step,
// where the keys were compared with those of a native tensor a moment ago; all others call unwrap().
// Skips the checks of Tensor::mutable_data_ptr, one of which reads a further line of memory. Storage that is copied when
// first written to is known by its deleter.
template <class T = void>
[[gnu::always_inline]] inline T* unwrap_native(const at::TensorImpl& impl, int64_t itemsize) {
  c10::StorageImpl* storage = impl.unsafe_storage().unsafeGetStorageImpl();
  const c10::DataPtr& data = storage->_mutable_data_ptr_no_checks();
  const bool copies = !std::is_const_v<T> && data.get_deleter() == c10::impl::cow::cow_deleter;
  void* start = C10_UNLIKELY(copies) ? storage->mutable_data() : data.get();
  return static_cast<T*>(static_cast<void*>(static_cast<char*>(start) + TensorFields::of(impl).offset() * itemsize));
}

// The address of the first element. Raises TypeError for a tensor that is not native.
// T: void, or the element type, which is compared then; const: for reading.
template <class T = void>
T* unwrap(const at::TensorImpl& impl) {
  if (C10_UNLIKELY(!is_native(impl))) refuse_address(impl);
  if constexpr (!std::is_void_v<T>) {
    TORCH_CHECK_TYPE(impl.dtype() == caffe2::TypeMeta::Make<std::remove_const_t<T>>(), "expected a tensor of dtype ",
                     caffe2::TypeMeta::Make<std::remove_const_t<T>>().name(), ", not ", impl.dtype().name());
  }
  return unwrap_native<T>(impl, static_cast<int64_t>(impl.dtype().itemsize()));
}

template <class T = void>
T* unwrap(const at::Tensor& tensor) {
  return unwrap<T>(*tensor.unsafeGetTensorImpl());
}

// The tensor itself; of one that is not native, its values in new memory, read by its own copy_: one that has to wait
// waits, one that does not mix with plain tensors raises.
inline at::Tensor native(const at::Tensor& tensor) {
  return is_native(*tensor.unsafeGetTensorImpl()) ? tensor : native_copy(tensor);
}

// Whether the storage holds all elements: other code may have freed or shrunk it. Of a native tensor whose elements lie
// without gaps.
inline bool is_backed(const at::TensorImpl& impl) {
  const int64_t numel = impl.numel();
  if (numel == 0) return true;
  c10::StorageImpl& storage = *impl.unsafe_storage().unsafeGetStorageImpl();
  const int64_t end = (impl.storage_offset() + numel) * static_cast<int64_t>(impl.dtype().itemsize());
  return static_cast<int64_t>(storage.nbytes()) >= end && storage._mutable_data_ptr_no_checks().get() != nullptr;
}

// Of any native tensor.
inline bool is_backed(const at::Tensor& tensor) {
  if (tensor.numel() == 0) return true;
  int64_t last = tensor.storage_offset();
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  c10::StorageImpl& storage = *tensor.storage().unsafeGetStorageImpl();
  const int64_t end = (last + 1) * static_cast<int64_t>(tensor.itemsize());
  return static_cast<int64_t>(storage.nbytes()) >= end && storage._mutable_data_ptr_no_checks().get() != nullptr;
}

// Whether its elements cannot be walked in the order of memory: there are gaps, or a conjugate that nobody has computed.
inline bool has_gaps(const at::Tensor& p) { return !p.is_non_overlapping_and_dense() || p.is_conj() || p.is_neg(); }

// Native memory on the device with a dtype of the kernels.
inline bool is_native(const at::Tensor& p, at::Device device) {
  return is_native(*p.unsafeGetTensorImpl()) && p.device() == device && dtype_of(p.scalar_type()).has_value();
}

}  // namespace fs
