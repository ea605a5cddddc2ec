// SPDX-License-Identifier: Apache-2.0
// What the plans ask of a torch tensor.
#pragma once

#include <c10/core/impl/COWDeleter.h>

#include <bit>
#include <optional>
#include <type_traits>

#include "bindings/bridge.h"
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

// The address of the first element of a tensor that is_native: the only place where one is taken. For the steady step,
// where the keys were compared with those of a native tensor a moment ago; all others call unwrap().
// Skips the checks of Tensor::mutable_data_ptr, one of which reads a further line of memory. Storage that is copied when
// first written to is known by its deleter.
template <class T = void>
T* unwrap_native(const at::TensorImpl& impl) {
  c10::StorageImpl* storage = impl.unsafe_storage().unsafeGetStorageImpl();
  const c10::DataPtr& data = storage->_mutable_data_ptr_no_checks();
  const bool copies = !std::is_const_v<T> && data.get_deleter() == c10::impl::cow::cow_deleter;
  void* start = copies ? storage->mutable_data() : data.get();
  return static_cast<T*>(static_cast<void*>(static_cast<char*>(start) + impl.storage_offset() * impl.dtype().itemsize()));
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
  return unwrap_native<T>(impl);
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

// Whether its storage still holds the tensor: somebody may have shrunk it.
inline bool is_backed(const at::Tensor& tensor) {
  const int64_t end = (tensor.storage_offset() + tensor.numel()) * static_cast<int64_t>(tensor.itemsize());
  return static_cast<int64_t>(tensor.storage().nbytes()) >= end;
}

// Whether its elements cannot be walked in the order of memory: there are gaps, or a conjugate that nobody has computed.
inline bool has_gaps(const at::Tensor& p) { return !p.is_non_overlapping_and_dense() || p.is_conj() || p.is_neg(); }

// Native memory on the device with a dtype of the kernels.
inline bool is_native(const at::Tensor& p, at::Device device) {
  return is_native(*p.unsafeGetTensorImpl()) && p.device() == device && dtype_of(p.scalar_type()).has_value();
}

}  // namespace fs
