// SPDX-License-Identifier: Apache-2.0
// What the border asks of a torch tensor.
#pragma once

#include <c10/core/impl/COWDeleter.h>
#include <torch/extension.h>

#include <optional>

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

// The first element: Tensor::mutable_data_ptr without the checks that the caller has made, one of which reads a further
// line of memory. Storage that is copied when first written to is known by its deleter.
inline void* first_element(const at::TensorImpl& impl) {
  c10::StorageImpl* storage = impl.unsafe_storage().unsafeGetStorageImpl();
  const c10::DataPtr& data = storage->_mutable_data_ptr_no_checks();
  void* start = data.get_deleter() == c10::impl::cow::cow_deleter ? storage->mutable_data() : data.get();
  return static_cast<char*>(start) + impl.storage_offset() * impl.dtype().itemsize();
}

// Whether its storage still holds the tensor: somebody may have shrunk it.
inline bool is_backed(const at::Tensor& tensor) {
  const int64_t end = (tensor.storage_offset() + tensor.numel()) * static_cast<int64_t>(tensor.itemsize());
  return static_cast<int64_t>(tensor.storage().nbytes()) >= end;
}

// Whether its elements cannot be walked in the order of memory: there are gaps, or a conjugate that nobody has computed.
inline bool has_gaps(const at::Tensor& p) { return !p.is_non_overlapping_and_dense() || p.is_conj() || p.is_neg(); }

// Plain strided memory on the device with a dtype of the kernels. Everything else is somebody else's.
inline bool is_native(const at::Tensor& p, at::Device device) {
  return p.device() == device && p.layout() == at::kStrided && !p.unsafeGetTensorImpl()->is_python_dispatch() &&
         p.has_storage() && dtype_of(p.scalar_type()).has_value();
}

}  // namespace fs
