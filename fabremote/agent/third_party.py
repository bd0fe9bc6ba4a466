"""Makes objects of NumPy and pandas in words that their versions have in common."""

from . import loader

# pandas


def nanoseconds(values, pandas):
    """Return times or spans as this pandas has them: before version 2, in nanoseconds alone."""
    if int(pandas.__version__.partition(".")[0]) >= 2:
        return values
    kind = values.dtype.str[:3] + "[ns]"
    made = values.astype(kind)
    if (made.astype(values.dtype).view("i8") != values.view("i8")).any():
        raise OverflowError(
            "pandas %s can't hold times that far away: it counts in nanoseconds"
            % pandas.__version__
        )
    return made


def times(kind, values, zone):
    """Return an array of times or spans, of what the index called ``kind`` holds."""
    pandas = loader.imported("pandas")
    index = getattr(pandas, kind)(nanoseconds(values.reshape(-1), pandas))
    if zone is not None:
        index = index.tz_localize("UTC").tz_convert(zone)
    return index.array if values.ndim == 1 else index.array.reshape(values.shape)


def time(kind, value, zone):
    """Return one time or span; ``value``: it as NumPy's, in an array."""
    pandas = loader.imported("pandas")
    made = getattr(pandas, kind)(nanoseconds(value, pandas)[0])
    return made if zone is None else made.tz_localize("UTC").tz_convert(zone)


def categorical(codes, categories, ordered):
    """Return an array of categories by their numbers."""
    make = loader.attribute("pandas", "Categorical").from_codes
    return make(codes, categories=categories, ordered=ordered)


def periods(values, freq):
    """Return an array of periods by their numbers."""
    dtype = loader.attribute("pandas", "PeriodDtype")(freq)
    return loader.attribute("pandas", "arrays").PeriodArray(values, dtype=dtype)


def block(values, placement, ndim):
    """Return a block, which is what the columns of one kind of a frame are."""
    make = getattr(loader.imported("pandas._libs.internals"), "_unpickle_block", None)
    if make is None:
        # Before pandas 1.3 times without a zone are NumPy's, and those with one are flat.
        if type(values).__name__ in ("DatetimeArray", "TimedeltaArray"):
            values = values[0] if getattr(values, "tz", None) else values.to_numpy()
        make = loader.imported("pandas.core.internals").make_block
    return make(values, placement, ndim=ndim)


def string_dtype(storage, missing):
    """Return the dtype of pandas' texts; before pandas 2.3 its missing value is always NA."""
    make = loader.attribute("pandas", "StringDtype")
    try:
        return make(storage, missing)
    except TypeError:
        return make()


def strings(dtype, values):
    """Return texts as an array of pandas."""
    return loader.attribute("pandas", "array")(values, dtype=dtype)


# NumPy's random numbers


def seed_sequence(entropy, spawn_key, pool_size, spawned):
    """Return a SeedSequence."""
    return loader.attribute("numpy.random", "SeedSequence")(
        entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=spawned
    )


def bit_generator(name, seed, state):
    """Return a bit generator in this state."""
    made = loader.attribute("numpy.random", name)(seed)
    made.state = state
    return made


def generator(bits):
    """Return a Generator over a bit generator."""
    return loader.attribute("numpy.random", "Generator")(bits)


def random_state(state):
    """Return a RandomState in this state."""
    made = loader.attribute("numpy.random", "RandomState")(0)
    made.set_state(state)
    return made
