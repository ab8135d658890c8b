//! Backend states and in-flight guards.
