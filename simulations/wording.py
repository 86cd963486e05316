"""What a field of a scenario may be, in words: for refusals, and for the manual."""

from msgspec import inspect


def fields(type_: inspect.Type) -> list[str]:
    """Return the fields of a table; none of anything else."""
    if not isinstance(type_, inspect.StructType):
        return []
    named = ["kind"] if type_.tag is not None else []
    return named + [field.encode_name for field in type_.fields]


def kinds(type_: inspect.Type) -> list[str]:
    """Return the kinds of a table that has some."""
    types = type_.types if isinstance(type_, inspect.UnionType) else (type_,)
    return [str(one.tag) for one in types if isinstance(one, inspect.StructType) and one.tag]


def described(type_: inspect.Type) -> str:
    """Return what is allowed, in words."""
    match type_:
        case inspect.UnionType(types=types):
            tags = kinds(type_)
            named = [
                described(one)
                for one in types
                if not isinstance(one, inspect.StructType | inspect.NoneType)
            ]
            return " or ".join(named + (["a table of kind " + ", ".join(tags)] if tags else []))
        case inspect.LiteralType(values=values):
            return " or ".join(f'"{value}"' for value in values)
        case inspect.FloatType() | inspect.IntType():
            name = "a number" if isinstance(type_, inspect.FloatType) else "a whole number"
            bounds = [
                f"{word} {bound:g}"
                for word, bound in (
                    ("at least", type_.ge),
                    ("above", type_.gt),
                    ("at most", type_.le),
                    ("below", type_.lt),
                )
                if bound is not None
            ]
            return " ".join([name, " and ".join(bounds)]).strip()
        case inspect.StrType():
            return "text"
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"a list, each {described(item)}"
        case inspect.StructType():
            return "a table with " + ", ".join(fields(type_))
        case inspect.DictType(value_type=inner):
            return f"a table, each {described(inner)}"
        case _:
            return "something else"
