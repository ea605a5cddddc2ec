// SPDX-License-Identifier: Apache-2.0
#include "bindings/metric.h"

#include "bindings/casters.h"
#include "core/metric.h"
#include "plan/cuda_batch.h"
#include "plan/tensors.h"

namespace {

int index_of(const at::Tensor& t) { return t.device().has_index() ? t.device().index() : 0; }

const fs_cuda::Runtime& runtime() {
  const fs_cuda::Runtime* found = fs::cuda_runtime();
  TORCH_CHECK(found != nullptr, "fusedsched was built without CUDA.");
  return *found;
}

void observe(const at::Tensor& table, const at::Tensor& given, uint64_t stream) {
  const at::Tensor metric = fs::native(given);
  TORCH_CHECK_TYPE(fs::is_native(metric, table.device()) && metric.numel() == 1,
                   "the metric must be a floating point tensor with one element on ", table.device());
  fs::check_cuda(runtime().observe(index_of(table), stream, fs::unwrap<double>(table), fs::unwrap<const void>(metric),
                                   *fs::dtype_of(metric.scalar_type())));
}

}  // namespace

void bind_metric(py::module_& m) {
  m.def("observe_metric", &observe, py::arg("table"), py::arg("metric"), py::arg("stream"),
        "One launch that decides by a metric: fusedsched/lr_scheduler/metric_state.py has the table.");
}
