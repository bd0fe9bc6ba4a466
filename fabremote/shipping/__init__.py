"""Functions and arguments to bytes; answers to values.

::

    payload.dump(fn, args, ...)         what a call sends
       |-- pickler    functions, classes, cells and modules as loader calls
       |     |-- code       what a code object refers to, and what it travels as
       |     |     |-- source         its source, found in its file and proved
       |     |     |     `-- source_files   files, parsed as far as needed
       |     |     `-- source_syntax  whether the far side reads that
       |     |           `-- source_edits   newer spellings in older ways
       |     |-- classes    a class's parts
       |     `-- modules    by reference, beside the call, or by value
       |           `-- sources    where modules come from, and their text
       |-- forwarding     what the function asks for as it runs
       `-- culprits   the place of what can't be sent, for the message
    explain.explain(fn, ...)            what it would send, and why
    answers.Decoder(...)                what a call gives back
       |-- nodes      an inert graph from untrusted bytes, then built
       |     `-- scan       the bytes, looked through before they are unpickled
       |-- kinds      the standard objects' constructors
       `-- raised     exceptions, with their remote tracebacks
"""
