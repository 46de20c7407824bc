// The browser's half of Clerk: signs in and out, keeps the cookies as clerk-js does, and renews the session token
// before its minute is over.

import { decode } from "/jwt.js";

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

  /** The session's id, its present token, and the claims of that; null while nobody is signed in. */
  id = null;
  token = null;
  claims = null;
  /** How the last session ended, and whose it was: `{ how, user }`. */
  over = null;

  constructor({ clerk, suffix, changed }) {
    this.#clerk = clerk;
    this.#suffix = suffix;
    this.#changed = changed;
    // Timers sleep in background tabs.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.id && this.secondsLeft() < RENEW_BEFORE_S) this.#renew().catch(() => {});
    });
  }

  secondsLeft() {
    return this.claims ? this.claims.exp - Date.now() / 1000 : 0;
  }

  /** Takes up the session that the cookies tell of, if it goes on. */
  async restore() {
    const claims = decode(readCookie(`__session_${this.#suffix}`) ?? "")?.claims;
    const signedInAt = readCookie(`__client_uat_${this.#suffix}`);
    if (!claims?.sid || !signedInAt || signedInAt === "0") return;
    this.id = claims.sid;
    await this.#renew().catch(() => {
      this.#leave("over");
      this.eraseCookies();
    });
  }

  async signIn(user) {
    const turn = ++this.#turn;
    const before = this.id;
    const answer = await this.#post("/v1/client/sign_ins", { user });
    if (turn !== this.#turn) return;
    if (before) this.#post(`/v1/client/sessions/${before}/end`).catch(() => {});
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

  /** Ends any session at Clerk; a page that has it hears of it from there. */
  async end(id) {
    await this.#post(`/v1/client/sessions/${id}/end`);
  }

  /** Takes to heart how Clerk's sessions stand: this one may have been ended elsewhere. */
  hear(sessions) {
    const own = sessions.find(({ id }) => id === this.id);
    if (own && own.status !== "active") this.#leave(own.status);
  }

  /** Clears the cookies of the session that is over, unless they have another one by now. */
  eraseCookies() {
    const left = this.#left;
    this.#left = null;
    if (!left || decode(readCookie(`__session_${this.#suffix}`) ?? "")?.claims?.sid !== left) return;
    this.#write("__client_uat", "0");
    this.#erase("__session");
  }

  /** Sees to it that the token lives long enough for a request. */
  async freshen() {
    if (this.id && this.secondsLeft() < 3) await this.#renew().catch(() => {});
  }

  /**
   * The session is over. clerk-js would clear the cookies at once; here they stay for a connection that is open, until
   * the token in them expires, so that one sees what the service says to a token that Clerk cannot take back.
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
    const { jwt } = await this.#post(`/v1/client/sessions/${this.id}/tokens`);
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

  async #post(path, body = {}) {
    const response = await fetch(this.#clerk + path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const answer = await response.json();
    if (response.ok) return answer;
    throw Object.assign(new Error(answer.errors?.[0]?.long_message ?? response.statusText), { status: response.status });
  }

  #write(name, value) {
    for (const each of [name, `${name}_${this.#suffix}`]) {
      document.cookie = `${each}=${value}; Path=/; Max-Age=${YEAR_S}; SameSite=Lax`;
    }
  }

  #erase(name) {
    for (const each of [name, `${name}_${this.#suffix}`]) {
      document.cookie = `${each}=; Path=/; Max-Age=0; SameSite=Lax`;
    }
  }
}

function readCookie(name) {
  return document.cookie.split("; ").find((each) => each.startsWith(`${name}=`))?.slice(name.length + 1);
}
