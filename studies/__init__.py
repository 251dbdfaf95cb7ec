"""Study files that are run, tested and documented; as a package, so that a wheel has them for `snas init`."""
