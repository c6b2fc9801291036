package controlplane

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

// writeCredentials writes what the API server reads when it starts: the administrator's token, and the key that signs
// the tokens of ServiceAccounts. The server makes its certificate itself.
func (c *ControlPlane) writeCredentials(token string) error {
	tokens := fmt.Appendf(nil, "%s,admin,admin,system:masters\n", token)
	if err := os.WriteFile(c.path("tokens.csv"), tokens, 0o600); err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("service-account.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		0o600)
}
