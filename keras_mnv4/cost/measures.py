"""What a `Profile` says in one number, by name: what searches limit and studies plot."""

MEASURES = {
    "macs": lambda profile: profile.macs,
    "parameters": lambda profile: profile.parameters,
    "weight_bytes": lambda profile: profile.weight_bytes,
    "ace": lambda profile: profile.ace(),
    "ace_v2": lambda profile: profile.ace_v2(),
    "energy": lambda profile: profile.energy(),
    "linear": lambda profile: profile.aqt_cost("linear"),
    "quadratic": lambda profile: profile.aqt_cost("quadratic"),
    "memory": lambda profile: profile.aqt_cost("memory"),
}
