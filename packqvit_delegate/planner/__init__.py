"""Memory planning at export: execute() allocates nothing."""

from .arena import ALIGNMENT, Lifetime, plan_arena

__all__ = ["ALIGNMENT", "Lifetime", "plan_arena"]
