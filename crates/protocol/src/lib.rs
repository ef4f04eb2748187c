//! Types and functions of the payment protocol: keys, notes, statements, memos, slots, lists, tickets. No I/O
