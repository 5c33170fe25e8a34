"""What Griffe has to be told about this package, which it reads without running it."""

import re

import griffe

EXAMPLE = re.compile(r"^Example:\n\n((?:.+\n?|\n(?=>>>))+)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Makes blocks of code of examples, and functions of what `_constructor("Name")` gives."""

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(_as_section, obj.docstring.value)

    def on_package(self, *, pkg, **_):
        applications = pkg["applications"]
        builder = applications["network.build_network"]
        for module in list(applications.modules.values()):
            for name, member in list(module.members.items()):
                if not member.is_alias and member.is_attribute and str(member.value).startswith("_constructor("):
                    module.set_member(name, _constructor(name, member, builder))


def _as_section(match):
    lines = match[1].rstrip("\n").split("\n")
    return "Examples:\n" + "\n".join(f"    {line}" if line else "" for line in lines) + "\n"


def _constructor(name, attribute, builder):
    left_out = {"architecture", "alpha"} if "PikeLPN" in name else {"architecture"}
    parameters = [each for each in builder.parameters if each.name not in left_out]
    function = griffe.Function(
        name, lineno=attribute.lineno, endlineno=attribute.endlineno, parameters=griffe.Parameters(*parameters)
    )
    others = " and ".join(f"`{each}`" for each in sorted(left_out))
    text = f"The arguments are those of `build_network` but for {others}."
    if not name.startswith(("PikeLPN", "ResNet")):
        text += " Where it has checkpoints, `weights` is `'imagenet'`."
    text += f"\n\nExamples:\n    >>> model = {name}(weights=None, classes=10)\n"
    function.docstring = griffe.Docstring(text, parent=function)
    return function
