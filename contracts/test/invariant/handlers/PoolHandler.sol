// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StreamPool} from "../../../src/StreamPool.sol";
import {TestToken} from "../../../src/dev/TestToken.sol";
import {Errors} from "../../../src/libraries/Errors.sol";
import {
    Authorization,
    ClaimArgs,
    CloseArgs,
    Ext,
    InsertArgs,
    Permit,
    TransactArgs
} from "../../../src/types/DataTypes.sol";
import {PoolTest} from "../../utils/PoolTest.sol";
import {Reference} from "../../utils/Reference.sol";
import {StreamMath} from "../../utils/StreamMath.sol";

/// @title PoolHandler
/// @notice Several actors who call everything the pool has, and the reference ledger of what should come of it.
contract PoolHandler is PoolTest {
    /// @notice A value note.
    struct Note {
        uint256 amount;
        uint256 nullifier;
        uint256 position;
        bool spent;
    }

    /// @notice A stream note and its record.
    struct Stream {
        uint256 tag;
        uint256 payee;
        uint256 rate;
        uint256 start;
        uint256 end;
        uint256 position;
        uint256 claimedUntil;
        uint256 stop;
        uint256 paid;
        uint256 refunded;
    }

    uint256 private constant ACTORS = 4;

    Note[] public notes;
    Stream[] public streams;

    /// @notice Every leaf in the order of the queue, the chain value after each, and the values the pool must have kept.
    uint256[] public leaves;
    bytes32[] public chain;

    /// @notice Roots by number of leaves, and those numbers in order.
    mapping(uint256 leafCount => uint256 root) public rootAt;
    uint256[] public rootSizes;

    uint256 public burnt;
    uint256 public donated;
    uint256 public nullifiersAccepted;
    mapping(string name => uint256) public calls;

    uint256 private _counter;
    address[] private _actors;
    uint256[] private _keys;

    constructor(StreamPool pool_, TestToken token_) {
        pool = pool_;
        token = token_;
        chain.push(keccak256("tributary.queue"));
        rootAt[0] = EMPTY_ROOT;
        rootSizes.push(0);
        for (uint256 i; i < ACTORS; ++i) {
            (address actor, uint256 key) = makeAddrAndKey(string.concat("actor ", vm.toString(i)));
            _actors.push(actor);
            _keys.push(key);
            token.mint(actor, 1e24);
        }
    }

    /*//////////////////////////////////////////////////////////////////////////
                                        CALLS
    //////////////////////////////////////////////////////////////////////////*/

    function wait(uint256 time) external {
        vm.warp(block.timestamp + bound(time, 1, 2 hours));
        vm.roll(block.number + 1);
    }

    function deposit(uint256 actorSeed, uint256 amount, uint256 fee, uint256 mode) external {
        uint256 actor = actorSeed % ACTORS;
        amount = bound(amount, 1, 1e18);
        fee = bound(fee, 0, amount / 10);
        (TransactArgs memory args, Ext memory ext) = transfer(fee, fee, actor);
        args.amountIn = amount;
        uint256 kept = amount - fee;
        args = prove(args, ext);
        mode %= 3;
        if (mode == 0) {
            vm.startPrank(_actors[actor]);
            token.approve(address(pool), amount);
            pool.transact(args, ext);
            vm.stopPrank();
        } else if (mode == 1) {
            Permit memory permit = _permit(actor, amount);
            vm.prank(_actors[actor]);
            pool.transactWithPermit(args, ext, permit);
        } else {
            Authorization memory authorization = _authorization(actor, args, ext);
            vm.prank(_actors[(actor + 1) % ACTORS]);
            pool.transactWithAuthorization(args, ext, authorization);
        }
        nullifiersAccepted += 2;
        _noteMade(kept - kept / 3, args.commitments[0]);
        _noteMade(kept / 3, args.commitments[1]);
        calls["deposit"] += 1;
    }

    /// @dev Splits, merges, withdraws.
    function spend(uint256 noteSeed, uint256 otherSeed, uint256 amountOut, uint256 fee, bool bundled) external {
        (bool found, uint256 first) = _spendable(noteSeed);
        if (!found) return;
        (, uint256 second) = _spendable(otherSeed);
        uint256 total = notes[first].amount;
        if (second != first) total += notes[second].amount;
        amountOut = bound(amountOut, 0, total);
        fee = bound(fee, 0, amountOut);
        (TransactArgs memory args, Ext memory ext) = transfer(amountOut, fee, noteSeed);
        args.root = _rootFor(_max(notes[first].position, notes[second].position));
        args.nullifiers[0] = notes[first].nullifier;
        if (second != first) args.nullifiers[1] = notes[second].nullifier;
        args = prove(args, ext);
        if (bundled) pool.bundle(abi.encodeCall(pool.transact, (args, ext)), new InsertArgs[](0));
        else pool.transact(args, ext);
        notes[first].spent = true;
        notes[second].spent = true;
        nullifiersAccepted += 2;
        uint256 rest = total - amountOut;
        _noteMade(rest / 2, args.commitments[0]);
        _noteMade(rest - rest / 2, args.commitments[1]);
        calls["spend"] += 1;
    }

    function open(uint256 noteSeed, uint256 payee, uint256 rate, uint256 startSeed, uint256 slots) external {
        (bool found, uint256 first) = _spendable(noteSeed);
        if (!found) return;
        uint256 start = block.timestamp / SLOT * SLOT;
        // Some start in the past, most soon.
        start = start + SLOT * bound(startSeed, 0, 20) - 5 * SLOT;
        uint256 length = SLOT * bound(slots, 1, 200);
        uint256 amount = notes[first].amount;
        if (amount < length) return;
        rate = bound(rate, 1, amount / length);
        (TransactArgs memory args, Ext memory ext) = transfer(0, 0, noteSeed);
        args.root = _rootFor(notes[first].position);
        args.nullifiers[0] = notes[first].nullifier;
        pool.transact(prove(args, ext), ext);
        notes[first].spent = true;
        nullifiersAccepted += 2;
        _streamMade(payee % ACTORS, rate, start, start + length, args.commitments[0]);
        _noteMade(amount - rate * length, args.commitments[1]);
        calls["open"] += 1;
    }

    /// @dev Stops a stream and perhaps opens another one from the refund, or pays a part of it out.
    function close(uint256 streamSeed, uint256 stopSeed, uint256 outSeed, bool reopen) external {
        (bool found, uint256 s) = _closable(streamSeed);
        if (!found) return;
        Stream storage stream = streams[s];
        uint256 earliest = (block.timestamp + NOTICE + SLOT - 1) / SLOT * SLOT;
        uint256 stop = earliest + SLOT * bound(stopSeed, 0, 100);
        uint256 refund = StreamMath.refund(stream.rate, stream.start, stream.end, stop);
        CloseArgs memory args = closeArgs(_next());
        args.root = _rootFor(stream.position);
        args.tag = stream.tag;
        args.stop = stop;
        args.amountOut = reopen ? 0 : bound(outSeed, 0, refund);
        args.nullifier = element("invariant close nullifier", _counter);
        args.commitments =
            [element("invariant commitment", 2 * _counter), element("invariant commitment", 2 * _counter + 1)];
        Ext memory ext = plainExt(payerMemo(_counter));
        ext.recipient = _actors[streamSeed % ACTORS];
        pool.close(prove(args, ext), ext);
        stream.stop = stop;
        stream.refunded = refund;
        nullifiersAccepted += 1;
        uint256 rest = refund - args.amountOut;
        if (reopen && rest >= SLOT) {
            uint256 rate = rest / SLOT;
            _streamMade(stream.payee, rate, stop, stop + SLOT, args.commitments[0]);
            _noteMade(rest - rate * SLOT, args.commitments[1]);
        } else {
            _noteMade(rest, args.commitments[0]);
            _noteMade(0, args.commitments[1]);
        }
        calls["close"] += 1;
    }

    /// @dev Claims as many streams of one payee as there are, each up to some moment.
    function claim(uint256 payee, uint256 skipSeed, uint256 backSeed, uint256 outSeed) external {
        payee %= ACTORS;
        ClaimArgs memory args = claimArgs(_next(), 0);
        args.commitment = element("invariant claim commitment", _counter);
        uint256[16] memory from;
        uint256 sum;
        uint256 newest;
        uint256 lane;
        for (uint256 s; s < streams.length && lane < 16; ++s) {
            (bool found, uint256 until) = _claimable(s, payee, skipSeed, backSeed);
            if (!found) continue;
            Stream storage stream = streams[s];
            args.lanes[lane].tag = stream.tag;
            args.lanes[lane].until = until;
            from[lane] = stream.claimedUntil;
            uint256 paid = StreamMath.payout(stream.rate, stream.start, stream.end, stream.claimedUntil, until);
            stream.paid += paid;
            stream.claimedUntil = until;
            sum += paid;
            newest = _max(newest, stream.position);
            ++lane;
        }
        if (lane == 0) return;
        args.root = _rootFor(newest);
        uint256 burn = sum * BURN_BPS / 10_000;
        args.amountOut = bound(outSeed, 0, sum - burn);
        Ext memory ext = plainExt("");
        ext.recipient = _actors[payee];
        ext.relayer = _actors[(payee + 1) % ACTORS];
        ext.fee = args.amountOut / 7;
        uint256[] memory x = Reference.claim(
            args, Reference.extHash(block.chainid, address(pool), Reference.CLAIM, ext), BURN_BPS, from
        );
        args.proof = proveStatement(Reference.CLAIM, args.digest, x);
        pool.claim(args, ext);
        burnt += burn;
        _noteMade(sum - burn - args.amountOut, args.commitment);
        calls["claim"] += 1;
    }

    function insert(uint256 sizeSeed, bool bundled) external {
        (bool found, InsertArgs memory args) = _insertion(sizeSeed);
        if (!found) return;
        uint256 inserted = args.from - args.from % 64 + args.leaves.length;
        if (bundled) {
            // Twice, as when two relayers race: the second is left out.
            InsertArgs[] memory both = new InsertArgs[](2);
            both[0] = args;
            both[1] = args;
            pool.bundle("", both);
        } else {
            pool.insert(args);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InsertionMismatch.selector, args.from, inserted));
            pool.insert(args);
        }
        rootAt[inserted] = args.newRoot;
        rootSizes.push(inserted);
        calls["insert"] += 1;
    }

    function donate(uint256 amount) external {
        amount = bound(amount, 0, 1e6);
        token.mint(address(pool), amount);
        donated += amount;
        calls["donate"] += 1;
    }

    /*//////////////////////////////////////////////////////////////////////////
                                  CALLS THAT MUST FAIL
    //////////////////////////////////////////////////////////////////////////*/

    function spendAgain(uint256 noteSeed) external {
        if (notes.length == 0) return;
        Note storage note = notes[noteSeed % notes.length];
        if (!note.spent) return;
        (TransactArgs memory args, Ext memory ext) = transfer(note.amount, 0, noteSeed);
        args.nullifiers[noteSeed % 2] = note.nullifier;
        args = prove(args, ext);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_NullifierSpent.selector, note.nullifier));
        pool.transact(args, ext);
        calls["spendAgain"] += 1;
    }

    /// @dev A proof for one amount with a call for another.
    function withdrawMore(uint256 noteSeed, uint256 more) external {
        (bool found, uint256 first) = _spendable(noteSeed);
        if (!found) return;
        (TransactArgs memory args, Ext memory ext) = transfer(notes[first].amount, 0, noteSeed);
        if (notes[first].amount == 0) return;
        args.nullifiers[0] = notes[first].nullifier;
        args = prove(args, ext);
        args.amountOut += bound(more, 1, 1e18);
        vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 21));
        pool.transact(args, ext);
        calls["withdrawMore"] += 1;
    }

    function claimWrongly(uint256 streamSeed, uint256 kind, uint256 offset) external {
        if (streams.length == 0) return;
        Stream storage stream = streams[streamSeed % streams.length];
        ClaimArgs memory args = claimArgs(_next(), 1);
        args.lanes[0].tag = stream.tag;
        Ext memory ext = plainExt("");
        kind %= 4;
        if (kind == 0) {
            // Seconds that were paid before.
            if (stream.claimedUntil == 0) return;
            uint256 until = stream.claimedUntil - bound(offset, 0, 1000);
            args.lanes[0].until = until;
            args = prove(args, ext);
            vm.expectRevert(
                abi.encodeWithSelector(Errors.StreamPool_WindowEmpty.selector, 0, stream.claimedUntil, until)
            );
        } else if (kind == 1) {
            // Beyond the stop.
            if (stream.stop == 0 || stream.stop >= block.timestamp) return;
            uint256 until = bound(offset, stream.stop + 1, block.timestamp);
            args.lanes[0].until = until;
            args = prove(args, ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_WindowPastStop.selector, 0, until, stream.stop));
        } else if (kind == 2) {
            // Beyond now.
            uint256 until = block.timestamp + bound(offset, 1, 1e6);
            args.lanes[0].until = until;
            args = prove(args, ext);
            vm.expectRevert(
                abi.encodeWithSelector(Errors.StreamPool_WindowInFuture.selector, 0, until, block.timestamp)
            );
        } else {
            // From the very start, after a claim.
            if (stream.claimedUntil == 0 || stream.claimedUntil >= block.timestamp || stream.stop != 0) return;
            uint256[16] memory from;
            uint256[] memory x = Reference.claim(
                args, Reference.extHash(block.chainid, address(pool), Reference.CLAIM, ext), BURN_BPS, from
            );
            args.proof = proveStatement(Reference.CLAIM, args.digest, x);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_InvalidProof.selector, 23));
        }
        pool.claim(args, ext);
        calls["claimWrongly"] += 1;
    }

    function closeWrongly(uint256 streamSeed, uint256 early) external {
        if (streams.length == 0) return;
        Stream storage stream = streams[streamSeed % streams.length];
        CloseArgs memory args = closeArgs(_next());
        args.tag = stream.tag;
        Ext memory ext = plainExt(payerMemo(1));
        if (stream.stop != 0) {
            args = prove(args, ext);
            vm.expectRevert(abi.encodeWithSelector(Errors.StreamPool_StreamStopped.selector, stream.tag, stream.stop));
        } else {
            args.stop -= SLOT * bound(early, 1, 100);
            args = prove(args, ext);
            vm.expectRevert(
                abi.encodeWithSelector(Errors.StreamPool_StopTooSoon.selector, args.stop, block.timestamp + NOTICE)
            );
        }
        pool.close(args, ext);
        calls["closeWrongly"] += 1;
    }

    /*//////////////////////////////////////////////////////////////////////////
                                      THE LEDGER
    //////////////////////////////////////////////////////////////////////////*/

    function noteCount() external view returns (uint256) {
        return notes.length;
    }

    function streamCount() external view returns (uint256) {
        return streams.length;
    }

    function rootCount() external view returns (uint256) {
        return rootSizes.length;
    }

    function leafCount() external view returns (uint256) {
        return leaves.length;
    }

    /// @notice What the pool owes to notes and streams.
    function owed() external view returns (uint256 sum) {
        for (uint256 i; i < notes.length; ++i) {
            if (!notes[i].spent) sum += notes[i].amount;
        }
        for (uint256 i; i < streams.length; ++i) {
            Stream storage stream = streams[i];
            sum += stream.rate * (stream.end - stream.start) - stream.paid - stream.refunded;
        }
    }

    /// @notice Inserts what is queued, claims every stream to its end and withdraws every note.
    function settle() external {
        while (rootSizes[rootSizes.length - 1] < leaves.length) this.insert(63, false);
        vm.warp(block.timestamp + 30 days);
        for (uint256 payee; payee < ACTORS; ++payee) {
            // Sixteen streams a claim.
            for (uint256 i; i <= streams.length / 16; ++i) {
                this.claim(payee, 0, 0, type(uint256).max);
            }
        }
        while (rootSizes[rootSizes.length - 1] < leaves.length) this.insert(63, false);
        uint256 count = notes.length;
        for (uint256 i; i < count; ++i) {
            Note storage note = notes[i];
            if (note.spent || note.amount == 0) continue;
            (TransactArgs memory args, Ext memory ext) = transfer(note.amount, 0, i);
            args.root = _rootFor(note.position);
            args.nullifiers[0] = note.nullifier;
            pool.transact(prove(args, ext), ext);
            note.spent = true;
            nullifiersAccepted += 2;
            _noteMade(0, args.commitments[0]);
            _noteMade(0, args.commitments[1]);
        }
    }

    /// @dev A transfer with fresh nullifiers and commitments, not proved yet.
    function transfer(uint256 amountOut, uint256 fee, uint256 actorSeed)
        private
        returns (TransactArgs memory args, Ext memory ext)
    {
        args = transactArgs(_next());
        args.amountOut = amountOut;
        args.nullifiers = [element("invariant dummy", 2 * _counter), element("invariant dummy", 2 * _counter + 1)];
        args.commitments =
            [element("invariant commitment", 2 * _counter), element("invariant commitment", 2 * _counter + 1)];
        ext = plainExt(payerMemo(_counter));
        ext.recipient = _actors[actorSeed % ACTORS];
        ext.relayer = _actors[(actorSeed % ACTORS + 1) % ACTORS];
        ext.fee = fee;
    }

    function _noteMade(uint256 amount, uint256 commitment) private {
        notes.push(Note(amount, element("invariant nullifier", notes.length), leaves.length, false));
        _queued(commitment);
    }

    function _streamMade(uint256 payee, uint256 rate, uint256 start, uint256 end, uint256 commitment) private {
        uint256 tag = element("invariant tag", streams.length);
        streams.push(Stream(tag, payee, rate, start, end, leaves.length, 0, 0, 0, 0));
        _queued(commitment);
    }

    function _queued(uint256 commitment) private {
        leaves.push(commitment);
        chain.push(keccak256(abi.encode(chain[chain.length - 1], commitment)));
    }

    /// @dev An unspent note in the tree.
    function _spendable(uint256 seed) private view returns (bool found, uint256 index) {
        uint256 inserted = rootSizes[rootSizes.length - 1];
        for (uint256 i; i < notes.length; ++i) {
            index = addmod(seed, i, notes.length);
            if (!notes[index].spent && notes[index].position < inserted) return (true, index);
        }
    }

    /// @dev A stream in the tree without a stop.
    function _closable(uint256 seed) private view returns (bool found, uint256 index) {
        uint256 inserted = rootSizes[rootSizes.length - 1];
        for (uint256 i; i < streams.length; ++i) {
            index = addmod(seed, i, streams.length);
            if (streams[index].stop == 0 && streams[index].position < inserted) return (true, index);
        }
    }

    /// @dev Whether a stream is one of this payee's in the tree with seconds to claim, and up to when.
    function _claimable(uint256 s, uint256 payee, uint256 skipSeed, uint256 backSeed)
        private
        view
        returns (bool found, uint256 until)
    {
        Stream storage stream = streams[s];
        if (stream.payee != payee || stream.position >= rootSizes[rootSizes.length - 1]) return (false, 0);
        if ((skipSeed >> (s % 256)) & 1 == 1) return (false, 0);
        until = block.timestamp - bound(uint256(keccak256(abi.encode(backSeed, s))), 0, backSeed % 1000);
        if (stream.stop != 0 && until > stream.stop) until = stream.stop;
        found = until > stream.claimedUntil;
    }

    /// @dev The oldest root that holds a position, or a newer one.
    function _rootFor(uint256 position) private view returns (uint256 root) {
        for (uint256 i; i < rootSizes.length; ++i) {
            if (rootSizes[i] > position) return rootAt[rootSizes[i]];
        }
        revert("no root");
    }

    /// @dev A proved insertion: to the batch's end if it is full, else to the last checkpoint.
    function _insertion(uint256 sizeSeed) private returns (bool found, InsertArgs memory args) {
        uint256 from = rootSizes[rootSizes.length - 1];
        if (from == leaves.length) return (false, args);
        uint256 start = from - from % 64;
        uint256 end = _min(start + 64, leaves.length);
        // A nearer checkpoint, if the ring still holds one.
        uint256 nearer = bound(sizeSeed, from + 1, end);
        if (pool.checkpoint(nearer) == chain[nearer]) end = nearer;
        uint256[] memory batch = new uint256[](end - start);
        for (uint256 i; i < batch.length; ++i) {
            batch[i] = leaves[start + i];
        }
        args = insertArgs(rootAt[from], from, batch);
        args.newRoot = element("invariant root", _next());
        args = prove(args);
        found = true;
    }

    function _permit(uint256 actor, uint256 amount) private view returns (Permit memory permit) {
        permit.deadline = block.timestamp;
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                _actors[actor],
                address(pool),
                amount,
                token.nonces(_actors[actor]),
                permit.deadline
            )
        );
        (permit.v, permit.r, permit.s) =
            vm.sign(_keys[actor], keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash)));
    }

    function _authorization(uint256 actor, TransactArgs memory args, Ext memory ext)
        private
        view
        returns (Authorization memory authorization)
    {
        authorization.from = _actors[actor];
        authorization.validBefore = block.timestamp + 1;
        uint256[] memory x =
            Reference.transact(args, Reference.extHash(block.chainid, address(pool), Reference.TRANSACT, ext));
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
                ),
                authorization.from,
                address(pool),
                args.amountIn,
                0,
                authorization.validBefore,
                Reference.statementHash(Reference.TRANSACT, args.digest, x)
            )
        );
        (authorization.v, authorization.r, authorization.s) =
            vm.sign(_keys[actor], keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash)));
    }

    function _next() private returns (uint256) {
        return ++_counter;
    }

    function _max(uint256 a, uint256 b) private pure returns (uint256) {
        return a > b ? a : b;
    }

    function _min(uint256 a, uint256 b) private pure returns (uint256) {
        return a < b ? a : b;
    }
}
