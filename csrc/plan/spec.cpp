// SPDX-License-Identifier: Apache-2.0
#include "plan/spec.h"

#include <pybind11/cast.h>

#include <algorithm>
#include <cstring>

namespace fs {

namespace {

template <class R>
void prepare(const double* hyper, const StepOfGroups& info, double* scalars) {
  const typename R::template Scalars<double> s = R::prepare(hyper, info);
  static_assert(sizeof s <= kMaxScalars * sizeof(double) && R::kStates <= kMaxStates);
  std::memcpy(scalars, &s, sizeof s);
}

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : " ") + name;
  return all;
}

PyObject* interned_key(const py::handle& name) {
  return PyUnicode_InternFromString(name.cast<std::string>().c_str());
}

}  // namespace

const RuleInfo kRuleInfo[kRules] = {
#define FS_INFO(name, ...) {&(#name)[1], __VA_ARGS__::kStates, prepare<__VA_ARGS__>},
    FS_RULES(FS_INFO)
#undef FS_INFO
};

const std::vector<Family>& families() {
  static const std::vector<Family> all = [] {
    std::vector<Family> found;
    int first = 0;
#define FS_ADD(F)                                                                 \
  found.push_back({F::kFamily, F::kHyperparameters, F::kStates, first, F::kRuleCount, \
                   [](const double* hyper) -> int { return F::choose(hyper); }});     \
  first += F::kRuleCount;
    FS_FAMILIES(FS_ADD)
#undef FS_ADD
    return found;
  }();
  return all;
}

Spec::Spec(const py::handle& spec) {
  const auto wanted = spec.attr("family").cast<std::string>();
  const auto found = std::find_if(families().begin(), families().end(),
                                  [&](const Family& family) { return family.name == wanted; });
  if (found == families().end()) {
    throw py::value_error("This build of fusedsched has no rules of family '" + wanted + "'.");
  }
  family = &*found;
  std::vector<std::string> names, state_names;
  for (const py::handle& number : spec.attr("hyperparameters")) {
    names.push_back(number.attr("name").cast<std::string>());
    const py::object item = number.attr("item");
    hyperparameters.push_back({names.back(), interned_key(number.attr("key")), item.is_none() ? -1 : item.cast<int>(),
                               number.attr("flag").cast<bool>()});
  }
  for (const py::handle& state : spec.attr("states")) {
    state_names.push_back(state.attr("name").cast<std::string>());
    state_keys.push_back(interned_key(state.attr("name")));
  }
  if (joined(names) != family->hyperparameters || joined(state_names) != family->states) {
    throw py::value_error("This build of fusedsched has other rules of family '" + wanted + "'. Build it again.");
  }
  counts_steps = spec.attr("counts_steps").cast<bool>();
  sparse_error = spec.attr("sparse_error").cast<std::string>();
}

}  // namespace fs
