//! Changes beside the file.
