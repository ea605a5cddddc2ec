// SPDX-License-Identifier: Apache-2.0
#include "bindings/layouts.h"

#include <pybind11/stl.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "core/metric.h"
#include "core/schedule.h"
#include "core/telemetry.h"
#include "cuda/launch.h"
#include "plan/spec.h"

namespace {

namespace py = pybind11;
using Columns = std::vector<std::string>;

// Columns of eight bytes by the offsets of the fields; what has no name is reserved.
Columns columns(size_t size, const std::vector<std::pair<const char*, size_t>>& fields) {
  Columns names(size / sizeof(double));
  for (const auto& [name, offset] : fields) names.at(offset / sizeof(double)) = name;
  return names;
}

#define FS_FIELD(type, name) {#name, offsetof(type, name)}

Columns row() {
  using fs::Row;
  return columns(sizeof(Row), {FS_FIELD(Row, begin), FS_FIELD(Row, shape), FS_FIELD(Row, span), FS_FIELD(Row, start),
                               FS_FIELD(Row, stop), FS_FIELD(Row, param), FS_FIELD(Row, cycle), FS_FIELD(Row, track)});
}

Columns program_header() {
  using fs::Header;
  return columns(sizeof(Header), {FS_FIELD(Header, n_rows), FS_FIELD(Header, period), FS_FIELD(Header, horizon)});
}

Columns metric_state() {
  using fs::MetricState;
  return columns(
      sizeof(MetricState),
      {FS_FIELD(MetricState, greedy), FS_FIELD(MetricState, comparison), FS_FIELD(MetricState, factor), FS_FIELD(MetricState, threshold),
       FS_FIELD(MetricState, patience), FS_FIELD(MetricState, cooldown), FS_FIELD(MetricState, warmup), FS_FIELD(MetricState, eps),
       FS_FIELD(MetricState, window), FS_FIELD(MetricState, reset_start), FS_FIELD(MetricState, n_targets), FS_FIELD(MetricState, clock),
       FS_FIELD(MetricState, begin), FS_FIELD(MetricState, end), FS_FIELD(MetricState, best), FS_FIELD(MetricState, bad), FS_FIELD(MetricState, good),
       FS_FIELD(MetricState, cooldown_counter), FS_FIELD(MetricState, warmup_counter), FS_FIELD(MetricState, lower_before_reset),
       FS_FIELD(MetricState, epoch), FS_FIELD(MetricState, sum), FS_FIELD(MetricState, held), FS_FIELD(MetricState, next),
       FS_FIELD(MetricState, verdict), FS_FIELD(MetricState, above)});
}

Columns metric_target() {
  using fs::MetricTarget;
  return columns(sizeof(MetricTarget), {FS_FIELD(MetricTarget, at), FS_FIELD(MetricTarget, dtype), FS_FIELD(MetricTarget, least), FS_FIELD(MetricTarget, most),
                                FS_FIELD(MetricTarget, initial), FS_FIELD(MetricTarget, last)});
}

Columns scheduled_target() {
  using fs_cuda::ScheduledTarget;
  return columns(sizeof(ScheduledTarget),
                 {FS_FIELD(ScheduledTarget, program), FS_FIELD(ScheduledTarget, tensor),
                  FS_FIELD(ScheduledTarget, rules), FS_FIELD(ScheduledTarget, dtype),
                  FS_FIELD(ScheduledTarget, written), FS_FIELD(ScheduledTarget, gain),
                  FS_FIELD(ScheduledTarget, shift), FS_FIELD(ScheduledTarget, until)});
}

Columns edit_rule() {
  using fs::EditRule;
  return columns(sizeof(EditRule), {FS_FIELD(EditRule, end), FS_FIELD(EditRule, kind), FS_FIELD(EditRule, pivot),
                                    FS_FIELD(EditRule, low), FS_FIELD(EditRule, period),
                                    FS_FIELD(EditRule, gain_per_unit)});
}

Columns words(const std::string& text) {
  Columns found;
  size_t begin = 0;
  for (size_t end = 0; end != std::string::npos; begin = end + 1) {
    end = text.find(' ', begin);
    found.push_back(text.substr(begin, end - begin));
  }
  return found;
}

py::dict layouts() {
  py::dict all;
  all["program_row"] = row();
  all["program_header"] = program_header();
  all["n_shapes"] = fs::kShapes;
  all["metric_state"] = metric_state();
  all["metric_target"] = metric_target();
  all["scheduled_target"] = scheduled_target();
  all["edit_rule"] = edit_rule();
  all["n_clocks"] = static_cast<int>(fs::kClocks);
  all["n_variants"] = fs::kVariants;
  all["max_hyperparameters"] = fs::kMaxHyperparameters;
  all["max_states"] = fs::kMaxStates;
  all["n_roles"] = static_cast<int>(fs::kMaxArrays);
  all["max_scalars"] = fs::kMaxScalars;
  all["telemetry_head"] = static_cast<int>(fs::kRowHead);
  py::dict families;
  for (const fs::Family& family : fs::families()) {
    py::dict rules;
    for (int i = family.first; i < family.first + family.n_rules; ++i) {
      rules[fs::kRuleInfo[i].name] = fs::kRuleInfo[i].states;
    }
    families[family.name.c_str()] = py::make_tuple(words(family.hyperparameters), words(family.states), rules);
  }
  all["families"] = families;
  return all;
}

// The name of the rule of a group of these numbers.
std::string choose(const std::string& name, std::vector<double> hyper) {
  hyper.resize(fs::kMaxHyperparameters);
  for (const fs::Family& family : fs::families()) {
    if (family.name == name) return fs::kRuleInfo[family.rule_of(hyper.data())].name;
  }
  throw py::key_error(name);
}

}  // namespace

void bind_layouts(py::module_& m) {
  m.def("layouts", &layouts);
  m.def("choose", &choose, py::arg("family"), py::arg("hyper"));
}
