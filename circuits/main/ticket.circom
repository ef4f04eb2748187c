// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "../ticket.circom";

component main { public [
    root, stoppedRoot, payee, price, slotStart, slotEnd, count, minStreamed, message, nf
] } = Ticket();
