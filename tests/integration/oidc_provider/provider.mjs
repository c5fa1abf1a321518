// A certified OpenID Connect provider on loopback, for tests. Its built-in pages take any login; the login is
// the subject. argv: client secret, then redirect URIs. Prints "ready ISSUER" once it answers.
import { createServer } from "node:http";
import { Provider } from "oidc-provider";

const [secret, ...redirectUris] = process.argv.slice(2);
const people = {
  ann: { email: "ann@example.org", email_verified: true, name: "Ann Lee", groups: ["ml-team", "all"] },
  bob: { email: "bob@example.org", email_verified: false, name: "Bob", groups: [] },
  eve: { email: "eve@elsewhere.test", email_verified: true, name: "Eve", groups: ["all"] },
  kim: { email: "kim@example.org", email_verified: true, name: "Kim", groups: [] },
};

const options = {
  clients: [{ client_id: "tidemill", client_secret: secret, redirect_uris: redirectUris }],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"], groups: ["groups"] },
  scopes: ["openid", "email", "profile", "groups"],
  pkce: { required: () => true },
  async findAccount(_, id) {
    return { accountId: id, claims: async () => ({ sub: id, ...(people[id] ?? {}) }) };
  },
  cookies: { keys: ["for tests only"] },
  features: { devInteractions: { enabled: true } },
};
const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  server.on("request", new Provider(issuer, options).callback());
  console.log(`ready ${issuer}`);
});
