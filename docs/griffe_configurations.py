"""Shows the fields of a configuration with their types and defaults, as a call would take them.

transformers makes a dataclass of every configuration class where no reader of source text can see
it: the decorator is huggingface_hub's `strict`. This extension of Griffe, which reads the source
for the reference, gives such classes the `__init__` that they have at run time.
"""

import griffe


class Configurations(griffe.Extension):
    """Gives classes under `@strict` an `__init__` of their annotated fields."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs) -> None:
        """Called when all members of a class are known."""
        if not any(str(one.value) == "strict" for one in cls.decorators):
            return
        fields = [
            griffe.Parameter(
                name,
                annotation=member.annotation,
                default=member.value,
                kind=griffe.ParameterKind.keyword_only,
            )
            for name, member in cls.members.items()
            if isinstance(member, griffe.Attribute) and member.annotation and member.value
        ]
        this = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        cls.set_member(
            "__init__",
            griffe.Function("__init__", parameters=griffe.Parameters(this, *fields)),
        )
