"""slangrast's tests. A package, so that `tests.references` and `tests.scenes` mean these and no others."""
