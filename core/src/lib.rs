//! Raw event records (JSON CloudEvents) to columns of numbers, and to entries of the audit ledger. No dependencies, a C interface:
//! see `abi`.
//!
//! Only what is plain is read: a record that a patient reader could take in another way, or not at all, is *odd*, and left to
//! it. So nothing here decides what a strange record means.

#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

mod abi;
mod abi_ledger;
mod cursor;
mod derive;
mod moment;
mod names;
mod number;
mod quotes;
mod record;
mod scan;
mod seal;
mod sha256;
mod spec;
mod text;

/// Why a record is not read here. Which rule it broke is for nobody to know: the patient reader finds out anew.
#[derive(Debug, PartialEq)]
pub(crate) struct Odd;

pub(crate) type Plain<T> = Result<T, Odd>;
