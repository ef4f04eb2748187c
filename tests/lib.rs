//! Whole-system tests. They run the programs as a user would; `script/setup` must have built them.
