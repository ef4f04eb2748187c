//! What a payer or a payee can do: deposit, open, close, claim, withdraw, restore, and make tickets ahead of time
