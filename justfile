# Short names for `cargo xtask`. The logic is in xtask/.

# List the recipes.
default:
    @just --list

# Everything that CI runs (Debian, root, Go).
test *ARGS:
    cargo xtask test {{ARGS}}

# Checks that need no cluster.
unit *ARGS:
    cargo xtask test --unit {{ARGS}}

# Cases on the real cluster only.
e2e *ARGS:
    cargo xtask test --cluster {{ARGS}}

# Three releases on a real cluster under load.
demo *ARGS:
    cargo xtask demo {{ARGS}}

# The local cluster: up, down, env or status.
cluster COMMAND:
    cargo xtask cluster {{COMMAND}}

# Write generated files; `just codegen --check` compares only.
codegen *ARGS:
    cargo xtask codegen {{ARGS}}

# Measure and update the documentation: detect, tick, fuzz, scale and others.
bench *ARGS:
    cargo xtask bench {{ARGS}}

# Unused dependencies. Needs cargo-machete, see CONTRIBUTING.md.
machete:
    cargo machete --with-metadata

# Promotions, rollbacks and aborts by the dozen.
soak *ARGS:
    cargo xtask soak {{ARGS}}
