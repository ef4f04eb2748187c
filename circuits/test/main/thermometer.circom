// SPDX-License-Identifier: GPL-3.0-only
pragma circom 2.2.0;

include "../../lib/thermometer.circom";

component main { public [count] } = Thermometer(8);
