// The browser side of Clerk: signs in and out, writes cookies as clerk-js does, and renews the session token before it
// expires.

import { decode } from "/jwt.js";
import { ask } from "/requests.js";

const RENEW_BEFORE_S = 12;
const RETRY_MS = 3000;
const YEAR_S = 365 * 24 * 3600;

export class Session {
  #clerk;
  #suffix;
  #changed;
  #timer;
  #turn = 0;
  #left = null;

  /** The session id, the current token and its claims; null if signed out. */
  id = null;
  token = null;
  claims = null;
  /** How the last session ended, and its user: `{ how, user }`. */
  over = null;

  constructor({ clerk, suffix, changed }) {
    this.#clerk = clerk;
    this.#suffix = suffix;
    this.#changed = changed;
    // Browsers delay timers in background tabs.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.id && this.secondsLeft() < RENEW_BEFORE_S) this.#renew().catch(() => {});
    });
  }

  secondsLeft() {
    return this.claims ? this.claims.exp - Date.now() / 1000 : 0;
  }

  /** Restores the session of the cookies, if it is active. */
  async restore() {
    const id = this.#sessionInCookie();
    if (!id || ["", "0"].includes(this.#read("__client_uat"))) return;
    this.id = id;
    await this.#renew().catch(() => {
      this.#leave("over");
      this.eraseCookies();
    });
  }

  async signIn(user) {
    const turn = ++this.#turn;
    const before = this.id;
    const answer = await this.#post("sign_ins", { user });
    if (turn !== this.#turn) return;
    if (before) this.end(before).catch(() => {});
    this.id = answer.created_session_id;
    this.#write("__client_uat", answer.cookies.__client_uat);
    this.#write("__clerk_db_jwt", answer.cookies.__clerk_db_jwt);
    this.#take(answer.cookies.__session);
  }

  async signOut() {
    const ended = this.id;
    if (!ended) return;
    this.#leave("signed-out");
    await this.end(ended).catch(() => {});
  }

  /** Ends any session at Clerk. A page with that session learns of it through `update`. */
  async end(id) {
    await this.#post(`sessions/${id}/end`);
  }

  /** Applies the sessions of Clerk: this one may have ended elsewhere. */
  update(sessions) {
    const own = sessions.find(({ id }) => id === this.id);
    if (own && own.status !== "active") this.#leave(own.status);
  }

  /** Clears the cookies of the ended session, unless they belong to another one by now. */
  eraseCookies() {
    const left = this.#left;
    this.#left = null;
    if (!left || this.#sessionInCookie() !== left) return;
    this.#write("__client_uat", "0");
    this.#write("__session", "", 0);
  }

  /** Renews the token if it expires too soon for a request. */
  async freshen() {
    if (this.id && this.secondsLeft() < 3) await this.#renew().catch(() => {});
  }

  /**
   * Ends the session on this page. Unlike clerk-js, it keeps the cookies of an open connection until their token
   * expires, to show how the service answers a token that Clerk cannot revoke.
   */
  #leave(how) {
    this.#turn += 1;
    this.#left = this.id;
    this.over = { how, user: this.claims?.sub };
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.eraseCookies(), Math.max(0, this.secondsLeft() * 1000));
    this.id = null;
    this.token = null;
    this.claims = null;
    this.#changed(this);
  }

  async #renew() {
    const turn = this.#turn;
    const { jwt } = await this.#post(`sessions/${this.id}/tokens`);
    if (turn === this.#turn) this.#take(jwt);
  }

  #take(jwt) {
    this.#left = null;
    this.token = jwt;
    this.claims = decode(jwt)?.claims ?? null;
    this.#write("__session", jwt);
    this.#schedule(Math.max(1000, (this.secondsLeft() - RENEW_BEFORE_S) * 1000));
    this.#changed(this);
  }

  #schedule(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#renew().catch((error) => (error.status === 404 ? this.#leave("over") : this.#schedule(RETRY_MS)));
    }, ms);
  }

  #post(path, body = {}) {
    return ask("POST", `${this.#clerk}/v1/client/${path}`, body);
  }

  #write(name, value, maxAge = YEAR_S) {
    for (const each of [name, `${name}_${this.#suffix}`]) {
      document.cookie = `${each}=${value}; Path=/; Max-Age=${maxAge}; SameSite=Lax`;
    }
  }

  #sessionInCookie() {
    return decode(this.#read("__session"))?.claims.sid;
  }

  #read(name) {
    const start = `${name}_${this.#suffix}=`;
    return document.cookie.split("; ").find((each) => each.startsWith(start))?.slice(start.length) ?? "";
  }
}
