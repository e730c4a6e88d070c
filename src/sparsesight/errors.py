"""The errors a user can cause. Their messages name the argument, the value and the fix."""


class SparseSightError(ValueError):
    """Something asked of SparseSight cannot be done; nothing was changed."""


class BudgetError(SparseSightError):
    """A ``retain`` value that the model, the picture and the pruning layers cannot meet."""


class UnsupportedModelError(SparseSightError):
    """A model, cache or option that sparsification does not work with."""
