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
  using fs::Watch;
  return columns(
      sizeof(Watch),
      {FS_FIELD(Watch, greedy), FS_FIELD(Watch, comparison), FS_FIELD(Watch, factor), FS_FIELD(Watch, threshold),
       FS_FIELD(Watch, patience), FS_FIELD(Watch, cooldown), FS_FIELD(Watch, warmup), FS_FIELD(Watch, eps),
       FS_FIELD(Watch, window), FS_FIELD(Watch, reset_start), FS_FIELD(Watch, n_rates), FS_FIELD(Watch, clock),
       FS_FIELD(Watch, begin), FS_FIELD(Watch, end), FS_FIELD(Watch, best), FS_FIELD(Watch, bad), FS_FIELD(Watch, good),
       FS_FIELD(Watch, cooldown_counter), FS_FIELD(Watch, warmup_counter), FS_FIELD(Watch, lower_before_reset),
       FS_FIELD(Watch, epoch), FS_FIELD(Watch, sum), FS_FIELD(Watch, held), FS_FIELD(Watch, next),
       FS_FIELD(Watch, verdict), FS_FIELD(Watch, above)});
}

Columns metric_target() {
  using fs::Rate;
  return columns(sizeof(Rate), {FS_FIELD(Rate, at), FS_FIELD(Rate, dtype), FS_FIELD(Rate, least), FS_FIELD(Rate, most),
                                FS_FIELD(Rate, initial), FS_FIELD(Rate, last)});
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
