// SPDX-License-Identifier: Apache-2.0
// What one step does: spans for the kernels, their scalars, and the copies that have to live until it is done.
#pragma once

#include <c10/core/impl/COWDeleter.h>
#include <torch/extension.h>

#include <optional>
#include <vector>

#include "plan.h"

namespace fs {

// The kernels' dtype, complex numbers being pairs of real ones.
inline std::optional<fs_cpu::DType> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat: case at::kComplexFloat: return fs_cpu::DType::kFloat32;
    case at::kDouble: case at::kComplexDouble: return fs_cpu::DType::kFloat64;
    case at::kBFloat16: return fs_cpu::DType::kBFloat16;
    case at::kHalf: case at::kComplexHalf: return fs_cpu::DType::kFloat16;
    default: return std::nullopt;
  }
}

// Work is shared out by units of 64 elements, so that no two threads write to one cache line of a 16-bit array that
// starts on a line. 512 units are some 15 microseconds: below that a second thread costs more than it does.
constexpr int64_t kUnit = 64;
constexpr int64_t kGrain = 512;

// The first element: Tensor::mutable_data_ptr without the checks that the caller has made, one of which reads a further
// line of memory. Storage that is copied when first written to is known by its deleter.
inline void* first_element(const at::TensorImpl& impl) {
  c10::StorageImpl* storage = impl.unsafe_storage().unsafeGetStorageImpl();
  const c10::DataPtr& data = storage->_mutable_data_ptr_no_checks();
  void* start = data.get_deleter() == c10::impl::cow::cow_deleter ? storage->mutable_data() : data.get();
  return static_cast<char*>(start) + impl.storage_offset() * impl.dtype().itemsize();
}

// Plain strided memory on the CPU with a dtype of the kernels. Everything else is somebody else's.
inline bool is_native(const at::Tensor& p) {
  return p.device().is_cpu() && p.layout() == at::kStrided && !p.unsafeGetTensorImpl()->is_python_dispatch() &&
         p.has_storage() && dtype_of(p.scalar_type()).has_value();
}

struct Plan::Work {
  std::vector<Entry*> entries;          // the parameters that have a gradient
  std::vector<double> scalars;          // kMaxScalars each, shared by the entries of one group at one step
  std::vector<int64_t> unit_ends;       // running sum of the entries' work units
  std::vector<at::Tensor> copies;       // gradients laid out anew
  std::vector<std::pair<Entry*, at::Tensor>> gathered;  // dense copies of parameters with gaps

  void clear() {
    entries.clear();
    scalars.clear();
    unit_ends.clear();
    copies.clear();
    gathered.clear();
  }
};

}  // namespace fs
