//! All black-box tests, one module a subject.

mod access;
