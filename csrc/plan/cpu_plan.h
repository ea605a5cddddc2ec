// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "plan/plan.h"
#include "plan/team.h"

namespace fs {

class CpuPlan : public Plan {
 public:
  CpuPlan(const py::object& spec, py::object optimizer, const py::list& param_groups, const py::dict& state,
          at::Tensor clocks);
  std::string name() const override { return "cpu"; }
  Outcome apply(const OptionalTensor& scale, const OptionalTensor& found_inf, bool counts) override;
  void advance(int unit, int64_t amount) override;
  Outcome skip(const py::list& param_groups, const at::Tensor& found_inf) override;

 private:
  void record(bool skipped);
  Outcome count_skipped();
  void check_horizons() override;
  void write_scalars(Work& work, double gain);
  void count(const Work& work);
  void run(Work& work);
  template <class Update>
  void share_out(const Work& work, int64_t units, const Update& update);
  void scale_gradients(double gain);

  int64_t* clock_;
  Team team_;
};

}  // namespace fs
