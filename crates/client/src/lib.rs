//! The buyer: discover, choose, negotiate, pay, use, assess
