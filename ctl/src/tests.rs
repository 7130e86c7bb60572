//! Whole runs of the client against a daemon that answers from a list.
