"""A mixed-integer linear programme, built column by column and row by row, and minimised by HiGHS.

The same programme always has the same answer: one thread, a fixed seed, and work limited in branches, not in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

Terms = Mapping[int, float]
"""A linear expression: the factor of each column."""

# One byte in a layer of 100 MB is 1e-8 of a layer: what is closer than this is the same.
_FEASIBLE = 1e-9
_OPTIONS: Mapping[str, bool | int | float | str] = {
    "output_flag": False,
    "threads": 1,
    "parallel": "off",
    "random_seed": 0,
    "mip_abs_gap": 1e-7,
    "mip_feasibility_tolerance": _FEASIBLE,
    "primal_feasibility_tolerance": _FEASIBLE,
    # Programmes this small are solved sooner without: by a quarter, over 160 of those of fleets of 8 and 32 nodes, and
    # without the last two by a third of what is left, over 205 of fleets of 8 that stream.
    "mip_allow_restart": False,
    "mip_heuristic_run_feasibility_jump": False,
    "mip_heuristic_run_rins": False,
    "mip_heuristic_run_rens": False,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The best values found, what they cost, and what no values can cost less than."""

    values: tuple[float, ...]
    cost: float
    bound: float

    def whole(self, column: int) -> int:
        """The value of an integer column."""
        return round(self.values[column])

    def chosen(self, column: int) -> bool:
        """Whether a binary column is 1."""
        return self.values[column] > 0.5


@dataclass(frozen=True, slots=True)
class Effort:
    """When a search ends: after so many branches, or where no more than that fraction of the cost can be saved."""

    branches: int = 1_000_000
    gap: float = 1e-7


_ALL = Effort()


@dataclass(slots=True)
class Programme:
    """Columns have bounds from 0 and a cost; rows bound linear expressions."""

    costs: list[float] = field(default_factory=list)
    uppers: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[tuple[float, Terms, float]] = field(default_factory=list)

    def column(self, upper: float = inf, *, whole: bool = False, cost: float = 0.0) -> int:
        """A new column between 0 and `upper`."""
        self.costs.append(cost)
        self.uppers.append(max(0.0, upper))
        self.whole.append(whole)
        return len(self.costs) - 1

    def binary(self, allowed: bool = True) -> int:
        """A new column that is 0 or 1; 0 where 1 is not allowed."""
        return self.column(1.0 if allowed else 0.0, whole=True)

    def at_most(self, limit: float, *terms: Terms) -> None:
        """The sum of these expressions must not exceed `limit`."""
        self.rows.append((-inf, total(*terms), limit))

    def equal(self, value: float, *terms: Terms) -> None:
        """The sum of these expressions must be `value`."""
        self.rows.append((value, total(*terms), value))

    def minimise(self, effort: Effort = _ALL, *, relaxed: bool = False) -> Answer | None:
        """The least cost; None where no values meet all rows, or none were found with that effort.

        Args:
            effort: of the search; what is found by then comes with the bound reached.
            relaxed: let whole numbers be fractions: a bound alone, far sooner.
        """
        import highspy

        highs = highspy.Highs()
        for name, value in _OPTIONS.items():
            highs.setOptionValue(name, value)
        highs.setOptionValue("mip_max_nodes", effort.branches)
        highs.setOptionValue("mip_rel_gap", effort.gap)
        highs.passModel(self._model(relaxed))
        highs.run()
        info = highs.getInfo()
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return None
        cost = info.objective_function_value
        bound = cost if relaxed or not any(self.whole) else info.mip_dual_bound
        return Answer(tuple(highs.getSolution().col_value), cost, bound)

    def _model(self, relaxed: bool) -> object:
        import highspy

        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = len(self.costs), len(self.rows)
        model.col_cost_, model.col_upper_ = self.costs, self.uppers
        model.col_lower_ = [0.0] * len(self.costs)
        model.row_lower_ = [low for low, _, _ in self.rows]
        model.row_upper_ = [high for _, _, high in self.rows]
        starts, index, value = [0], [], []
        for _, terms, _ in self.rows:
            index += list(terms)
            value += list(terms.values())
            starts.append(len(index))
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_, model.a_matrix_.index_, model.a_matrix_.value_ = starts, index, value
        if not relaxed:
            kinds = highspy.HighsVarType
            model.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in self.whole]
        return model


def total(*terms: Terms) -> dict[int, float]:
    """The sum of linear expressions."""
    summed: dict[int, float] = {}
    for one in terms:
        for column, factor in one.items():
            summed[column] = summed.get(column, 0.0) + factor
    return summed


def scaled(terms: Terms, factor: float) -> dict[int, float]:
    """A linear expression times a number."""
    return {column: factor * value for column, value in terms.items()}
