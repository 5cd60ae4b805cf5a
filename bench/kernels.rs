//! Every kernel at every level.

fn main() {}
