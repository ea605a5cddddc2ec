// SPDX-License-Identifier: Apache-2.0
// The plan of one GPU: the tables that its kernels read (cuda/launch.h), and the launches of a step.
#pragma once

#include "cuda/launch.h"
#include "plan/plan.h"

namespace fs {

// The CUDA runtime that this extension was built with, or the one that tests put in its place; null if there is none.
const fs_cuda::Runtime* cuda_runtime();
void emulate_cuda(const std::string& library);

class CudaPlan : public Plan {
 public:
  // flags: kClocks int32 in memory that both sides reach. kUpdates: a native schedule is past its horizon; kSamples,
  // kTokens: that clock was to be advanced by a negative number; kSkipped: a drop-in scheduler is past its last step.
  // rows: of each group, its row in the table of hyperparameters: kMaxHyperparameters numbers that this plan writes, then
  // as many places for the values of native schedules. stream_of: a device's index to its present stream.
  CudaPlan(const py::object& spec, py::object optimizer, const py::list& param_groups, const py::dict& state,
           at::Tensor clocks, at::Tensor flags, std::vector<at::Tensor> rows, py::object stream_of);
  ~CudaPlan() override;

  std::string name() const override { return "cuda"; }
  Outcome check(const py::list& param_groups, const py::dict& state) override;
  Outcome apply(const OptionalTensor& scale, const OptionalTensor& found_inf, bool counts) override;
  bool set_program(int group, const std::string& name, std::vector<double> table, int unit, at::Tensor shown) override;
  void advance(int unit, int64_t amount) override;
  void advance_by(int unit, const at::Tensor& amount) override;
  void check_counts() override;
  Outcome skip(const py::list& param_groups, const at::Tensor& found_inf) override;
  void record_to(const OptionalTensor& ring) override;
  std::vector<std::pair<at::Tensor, int64_t>> exact_counts() const override;

  // Copies the numbers of the groups to the table of hyperparameters now, where captured graphs and schedulers read
  // them. False: the plan is out of date.
  bool sync_hparams(const py::list& param_groups);
  bool capturing() const;
  // Whether a graph was captured that goes on reading these tables.
  bool captured() const { return captured_; }

 private:
  struct LaunchBatch;  // the arrays of one launch

  enum Source : uint8_t { kNumber, kProgram, kTensor };

  uint64_t stream() const;
  void record_stream();
  bool captures(uint64_t stream) const;
  at::Tensor upload(const void* data, size_t bytes);
  void check_horizons() override;
  void clear_flag(int flag);
  Source source_of(size_t group, size_t k) const;
  fs_cuda::Hyperparameter for_device(size_t group, size_t k) const;
  fs_cuda::NativeSchedule schedule_of(size_t group, size_t k);
  void rewrite(size_t group, size_t k);
  void send(const at::Tensor& table, size_t offset, const void* data, size_t bytes);
  fs_cuda::NativeSchedules schedules() const;
  void note_capture();
  bool leaves_graph(size_t group) const;
  void build_groups();
  void write_current();
  void build_batches();
  void count_entries();
  void unshare_gradients();
  void address_gradients();
  void assign_tiles(LaunchBatch& batch);
  bool read_numbers();
  void read_number(size_t at, double value);
  void store_pending(bool now);
  Outcome prepare_tables(bool moved);
  void address(LaunchBatch& batch, const OptionalTensor& scale, const OptionalTensor& found_inf, bool last);
  void record(const LaunchBatch& batch);
  int index() const { return device_.has_index() ? device_.index() : 0; }

  const fs_cuda::Runtime& runtime_;
  py::object stream_of_;
  uint64_t check_stream_ = 0;  // the present stream when the last check began: the one of its step
  std::vector<uint64_t> streams_;  // those that the tables were recorded for
  at::Tensor flags_, ticket_, zero_, groups_table_, schedules_table_, counts_;
  std::vector<at::Tensor> rows_;               // the table of hyperparameters, by group
  std::vector<at::Tensor> programs_;           // of native schedules, by number
  std::vector<int32_t> schedule_at_;           // by number: which of the native schedules; -1: none
  int64_t n_schedules_ = 0;
  std::vector<fs_cuda::Group> device_groups_;  // as built
  std::vector<Source> sources_;                // of each number
  std::vector<double> known_;                  // the numbers as last sent to the device
  std::vector<fs_cuda::PendingValue> pending_values_;  // those that the table does not hold yet
  std::vector<size_t> pending_at_;             // by number: where among them it was last
  std::vector<std::unique_ptr<LaunchBatch>> batches_;
  std::unique_ptr<LaunchBatch> empty_batch_;   // without arrays: advances the clocks
  std::vector<LaunchBatch*> batch_of_;         // by entry; null: in none
  std::vector<int32_t> index_in_batch_;        // by entry
  std::vector<Entry*> present_;                // those with a gradient at the last step
  std::vector<at::Tensor> kept_;               // old rings and tables that a captured graph goes on using
  std::vector<Rule> captured_rules_;           // by group, in the last captured step
  bool captured_ = false;
};

}  // namespace fs
