//! Ways to bring tokens in.

use alloy::{
    primitives::{Address, B256, U256, keccak256},
    providers::DynProvider,
    signers::Signer,
    sol,
    sol_types::{SolStruct, SolValue},
};
use tributary_bindings::StreamPool;
use tributary_protocol::{Amount, UnixTime};

use crate::WalletError;

sol! {
    #[sol(rpc)]
    interface IDepositToken {
        function DOMAIN_SEPARATOR() external view returns (bytes32);
        function nonces(address owner) external view returns (uint256);
        function allowance(address owner, address spender) external view returns (uint256);
        function approve(address spender, uint256 value) external returns (bool);
        function balanceOf(address account) external view returns (uint256);
    }

    /// EIP-2612.
    #[derive(Debug)]
    struct Permit {
        address owner;
        address spender;
        uint256 value;
        uint256 nonce;
        uint256 deadline;
    }

    /// EIP-3009.
    #[derive(Debug)]
    struct ReceiveWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }
}

/// How a deposit's tokens come into the pool.
#[derive(Clone, Copy)]
pub enum DepositFrom<'a> {
    /// From the account that sends the transaction. It must have approved the pool before ([`approve`]); nobody else can send it.
    Approved,
    /// From the account that sends the transaction, by its EIP-2612 permit in the same transaction; nobody else can send it.
    Permit(&'a SignedPermit),
    /// From the account of `signer`, by an EIP-3009 authorisation for this very statement. Anyone can send it.
    Authorization {
        /// Whose tokens.
        signer: &'a (dyn Signer + Send + Sync),
        /// The token's EIP-712 domain separator, see [`domain_separator`].
        domain: B256,
    },
}

impl std::fmt::Debug for DepositFrom<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Approved => "Approved",
            Self::Permit(_) => "Permit",
            Self::Authorization { .. } => "Authorization",
        })
    }
}

/// A signed EIP-2612 permit for the pool.
#[derive(Clone, Debug)]
pub struct SignedPermit(pub(crate) StreamPool::Permit);

fn failed(error: impl std::fmt::Display) -> WalletError {
    WalletError::Authorization { reason: error.to_string() }
}

/// Endpoints often carry a key in their address, and transport errors quote the address.
fn chain(error: alloy::contract::Error) -> WalletError {
    match error {
        alloy::contract::Error::TransportError(error) => match error.as_error_resp() {
            Some(response) => failed(format!("the chain node says: {}", response.message)),
            None => failed("the chain node did not answer"),
        },
        other => failed(other),
    }
}

/// Reads the token's EIP-712 domain separator.
///
/// # Errors
/// [`WalletError::Authorization`] when the token has none.
pub async fn domain_separator(provider: &DynProvider, token: Address) -> Result<B256, WalletError> {
    IDepositToken::new(token, provider).DOMAIN_SEPARATOR().call().await.map_err(chain)
}

/// The token balance of an account.
///
/// # Errors
/// [`WalletError::Authorization`] when the node or the token doesn't answer.
pub async fn token_balance(provider: &DynProvider, token: Address, account: Address) -> Result<U256, WalletError> {
    IDepositToken::new(token, provider).balanceOf(account).call().await.map_err(chain)
}

/// Signs an EIP-2612 permit for the pool over exactly `amount`.
///
/// # Errors
/// [`WalletError::Authorization`].
pub async fn sign_permit(
    provider: &DynProvider,
    token: Address,
    pool: Address,
    signer: &(dyn Signer + Send + Sync),
    amount: Amount,
    deadline: UnixTime,
) -> Result<SignedPermit, WalletError> {
    let contract = IDepositToken::new(token, provider);
    let domain = contract.DOMAIN_SEPARATOR().call().await.map_err(chain)?;
    let nonce = contract.nonces(signer.address()).call().await.map_err(chain)?;
    let permit =
        Permit { owner: signer.address(), spender: pool, value: amount.into(), nonce, deadline: deadline.into() };
    let (v, r, s) = sign(signer, domain, &permit).await?;
    Ok(SignedPermit(StreamPool::Permit { deadline: deadline.into(), v, r, s }))
}

/// Lets the pool take `amount` from the provider's account, unless it may already; waits until that is mined.
///
/// # Errors
/// [`WalletError::Authorization`].
pub async fn approve(
    provider: &DynProvider,
    token: Address,
    pool: Address,
    owner: Address,
    amount: Amount,
) -> Result<(), WalletError> {
    let contract = IDepositToken::new(token, provider);
    if contract.allowance(owner, pool).call().await.map_err(chain)? >= amount.to_u256() {
        return Ok(());
    }
    let pending = contract.approve(pool, amount.into()).from(owner).send().await.map_err(chain)?;
    let receipt = pending.get_receipt().await.map_err(|_| failed("the approval was sent, but not seen mined"))?;
    if receipt.status() { Ok(()) } else { Err(failed("the token refused the approval")) }
}

pub(crate) async fn sign_authorization(
    signer: &(dyn Signer + Send + Sync),
    domain: B256,
    pool: Address,
    amount: Amount,
    valid_before: UnixTime,
    nonce: B256,
) -> Result<StreamPool::Authorization, WalletError> {
    let authorization = ReceiveWithAuthorization {
        from: signer.address(),
        to: pool,
        value: amount.into(),
        validAfter: U256::ZERO,
        validBefore: valid_before.into(),
        nonce,
    };
    let (v, r, s) = sign(signer, domain, &authorization).await?;
    Ok(StreamPool::Authorization {
        from: signer.address(),
        validAfter: U256::ZERO,
        validBefore: valid_before.into(),
        v,
        r,
        s,
    })
}

/// EIP-712 under a domain that is known by its separator only.
async fn sign(
    signer: &(dyn Signer + Send + Sync),
    domain: B256,
    message: &impl SolStruct,
) -> Result<(u8, B256, B256), WalletError> {
    let hash = keccak256(
        (alloy::primitives::FixedBytes([0x19, 0x01]), domain, message.eip712_hash_struct()).abi_encode_packed(),
    );
    let signature = signer.sign_hash(&hash).await.map_err(failed)?;
    Ok((27 + u8::from(signature.v()), signature.r().into(), signature.s().into()))
}
